"""Activations with parameters; those without are functions of ``jax.nn``."""
