"""Arrays of a file into parameters, with one copy and little more memory than that.

Stacked copies of a block are written into one array as they are read, and pages of a mapped file
are let go after their use; otherwise a model of 500 MB would take two or three times that much.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

# What XLA wants of memory that it takes over as it is.
_ALIGNMENT = 64
_LARGE = 1 << 22
# Smaller arrays share their pages with others.
_WORTH_RELEASING = 1 << 18


class Stack:
    """One parameter: the copies of a layer side by side, or the one that there is.

    Args:
      counts: of the copies, an axis for each ``repeat`` around the layer.
    """

    def __init__(self, counts: tuple[int, ...]) -> None:
        self._counts, self._left = counts, math.prod(counts)
        self._values: np.ndarray = np.empty(0)

    def put(self, copy: tuple[int, ...], array: np.ndarray) -> None:
        """Writes the array of one copy."""
        if self._left == math.prod(self._counts):
            self._values = _empty((*self._counts, *array.shape), array.dtype)
        elif array.dtype != self._values.dtype:
            both = np.promote_types(array.dtype, self._values.dtype)
            wider = _empty(self._values.shape, both)
            np.copyto(wider, self._values)
            self._values = wider
        where: Any = (*copy, ...)  # a view, of a single number too
        np.copyto(self._values[where], array)
        self._left -= 1

    @property
    def complete(self) -> bool:
        """Whether each copy was written."""
        return not self._left

    def value(self) -> jax.Array:
        # asarray would copy what device_put takes over on the host.
        made: jax.Array = jax.device_put(self._values)
        return made


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Memory that JAX takes over as it is where it computes on the host.

    Not of NumPy where there is much: NumPy asks for huge pages, whose first use takes three times
    as long as reading the file where a host takes back what its virtual machine has freed. All of
    it is about to be written: one call for its pages is quicker than a fault for each.
    """
    size = math.prod(shape) * dtype.itemsize
    if size >= _LARGE and hasattr(mmap, "MAP_PRIVATE"):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
        raw = np.frombuffer(mmap.mmap(-1, size, flags), np.uint8)
        start = 0
    else:
        raw = np.empty(size + _ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def release(arrays: Mapping[str, np.ndarray]) -> None:
    """Lets go of the pages of a mapped file that arrays have been read from.

    They count as memory of the process while they are mapped, and are read again if they are used.
    """
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is None:
        return
    for array in arrays.values():
        if array.nbytes < _WORTH_RELEASING:
            continue
        mapped = _mapped(array)
        if mapped is None or mapped.closed:
            continue
        low, high = np.lib.array_utils.byte_bounds(array)
        begin = np.frombuffer(mapped, np.uint8).ctypes.data
        first = -(-(low - begin) // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (high - begin) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            mapped.madvise(advice, first, length)


def _mapped(array: Any) -> mmap.mmap | None:
    """The map that an array is a view of."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array
