"""Convolutions: the operation, its algorithms and its geometry."""
