"""Arrays in host memory that JAX uses in place, where it would copy others."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing

# XLA's CPU backend uses the memory of a NumPy array in place if it is aligned to this.
_ALIGNMENT = 64
# For smaller arrays a copy costs less than finding an aligned address.
_WORTH_IT = 1 << 14


def empty(shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> np.ndarray:
    """Like ``np.empty``, at an aligned address if the array is large.

    JAX may read this memory at any later time, so it must not be written to once it is passed on.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < _WORTH_IT or dtype.hasobject:
        return np.empty(shape, dtype)
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    return np.ndarray(shape, dtype, buffer, -buffer.ctypes.data % _ALIGNMENT)


def aligned(array: np.ndarray) -> np.ndarray:
    """The array itself if JAX uses it in place or it is small; else an aligned copy."""
    fits = array.ctypes.data % _ALIGNMENT == 0 and array.flags.c_contiguous
    if fits or array.nbytes < _WORTH_IT or array.dtype.hasobject:
        return array
    return copy(array)


def copy(array: np.ndarray) -> np.ndarray:
    """A copy, aligned if it is large."""
    out = empty(array.shape, array.dtype)
    out[...] = array
    return out


def take_of(array: np.ndarray) -> Callable[[np.ndarray, np.ndarray | slice], np.ndarray]:
    """A function of the array and row numbers, or a slice: these rows in memory of their own."""
    # Of any other array NumPy's `take` makes a copy first, of all its rows.
    return _take if array.flags.c_contiguous and array.flags.aligned else _index


def _take(array: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
    if isinstance(rows, slice):
        return copy(array[rows])
    out = empty((*rows.shape, *array.shape[1:]), array.dtype)
    # With mode="raise" NumPy writes to a buffer first; the rows are known to be in range.
    return array.take(rows, 0, out, mode="clip")


def _index(array: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
    return copy(array[rows])
