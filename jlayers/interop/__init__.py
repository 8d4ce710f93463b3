"""Weights from and to other libraries: files, what goes where, and proof that it is the same."""

from .formats import FORMATS, Format
from .reading import read

__all__ = ["FORMATS", "Format", "read"]
