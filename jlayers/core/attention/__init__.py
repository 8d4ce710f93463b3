"""Attention: the operation, its masks, its blocks and its cache."""
