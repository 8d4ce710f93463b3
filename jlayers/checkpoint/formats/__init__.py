"""File formats of arrays."""
