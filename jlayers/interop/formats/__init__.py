"""One file a format; importing it here puts it into the table."""

from . import flax, keras, numpy, orbax
from .base import FORMATS, Format

__all__ = [
    "FORMATS",
    "Format",
    "flax",
    "keras",
    "numpy",
    "orbax",
]
