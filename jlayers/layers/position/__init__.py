"""Layers that say where a step is."""
