"""Arrays that a program closes over, and numbers in its text.

How to read this file: ``constant`` compares the two traces' arrays. The same object needs no look,
however large it is, but small ones get one, since arrays that are the same all along do not
give away a step's number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .domain import NOTHING, Cause, Factor, Known, Pair, Value, plain, plain_axes
from .equation import Differs

_SMALL = 4096
# Above this, arrays that are not the same object count as different: comparing takes too long.
_COMPARED = 2**20


def constant(first: Any, second: Any, cause: Cause) -> Value:
    """What is known of an array of each trace."""
    shapes = np.shape(first), np.shape(second)
    if len(shapes[0]) != len(shapes[1]):
        raise Differs("rank of a constant")
    shape = tuple(zip(*shapes, strict=True)) if shapes[0] else ()
    same_object = first is second
    count = max(math.prod(shapes[0]), math.prod(shapes[1]))
    arrays = None
    if count <= (_SMALL if same_object else _COMPARED):
        arrays = _read(first), _read(second)
    if arrays is None or arrays[0] is None or arrays[1] is None:
        axes = plain_axes(shape)
        return Value(axes, place=None if same_object or shapes[0] != shapes[1] else cause)
    place = None
    if not same_object and shapes[0] == shapes[1] and not _equal(arrays[0], arrays[1]):
        place = cause
    axes = tuple(_axis(arrays[0], arrays[1], d, size) for d, size in enumerate(shape))
    known = NOTHING
    if not shape and all(array.dtype.kind in "iu" for array in arrays if array is not None):
        known = Known(number=(int(arrays[0]), int(arrays[1])))
    return Value(axes, place=place, known=known)


def _read(array: Any) -> np.ndarray[Any, Any] | None:
    # Tracers and keys have no values to look at, arrays of other hosts and guarded transfers none
    # that may be.
    try:
        read = np.asarray(array)
        return read if read.dtype.kind != "O" else None
    except Exception:
        return None


def _equal(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> bool:
    return first.dtype == second.dtype and first.tobytes() == second.tobytes()


def _axis(
    first: np.ndarray[Any, Any], second: np.ndarray[Any, Any], d: int, size: Pair
) -> tuple[Factor, ...]:
    same = all(bool((a == a.take([0], axis=d)).all()) for a in (first, second) if a.shape[d])
    return plain(size, same)
