"""Arrays in host memory which JAX takes as they are, where it would copy others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# Where XLA's CPU backend uses the memory of a numpy array in the place of a copy.
_ALIGNMENT = 64
# Below it a copy costs less than looking for an aligned address.
_WORTH_IT = 1 << 14


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Like ``np.empty``, at an address that JAX need not copy from if the array is large.

    JAX may look at this memory for as long as it likes: nobody writes to it after handing it over.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < _WORTH_IT or dtype.hasobject:
        return np.empty(shape, dtype)
    room = np.empty(size + _ALIGNMENT, np.uint8)
    return np.ndarray(shape, dtype, room, -room.ctypes.data % _ALIGNMENT)


def aligned(array: np.ndarray) -> np.ndarray:
    """The array itself where JAX need not copy it, or where it is small; else an aligned copy."""
    fits = array.ctypes.data % _ALIGNMENT == 0 and array.flags.c_contiguous
    if fits or array.nbytes < _WORTH_IT or array.dtype.hasobject:
        return array
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def take(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``array[rows]`` for an array of row numbers, always in memory of its own."""
    out = empty((*rows.shape, *array.shape[1:]), array.dtype)
    # mode="clip", for with "raise" numpy writes to a buffer first; rows are in range.
    return array.take(rows, 0, out, mode="clip")
