"""Weights from and to other libraries: files, what goes where, and proof that it is the same."""

from .formats import FORMATS, Format
from .matching import Pairing, Plan, match
from .reading import read

__all__ = ["FORMATS", "Format", "Pairing", "Plan", "match", "read"]
