"""Pickles read as data: no name in a file is ever imported, and nothing that it names is called.

``interpreter`` knows the opcodes, ``allowed`` the names that a file may use and what we make of
them, ``records`` what that is, and ``names`` how nested records become arrays by name.
"""

from .allowed import Finder
from .interpreter import load
from .names import named_arrays
from .records import Storage, Tensor

__all__ = ["Finder", "Storage", "Tensor", "load", "named_arrays"]
