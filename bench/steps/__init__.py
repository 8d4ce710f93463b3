"""Whole training steps, in every framework, from the same weights."""
