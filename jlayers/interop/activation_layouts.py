"""How two libraries lay out one activation: axes in another order, merged, or of size one.

An activation is read in the layout in which its shape is ours; of several, in that in which it
differs least. Random numbers agree in no layout but the right one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from ..core.dtypes import rounding_at_zero

Shape = tuple[int, ...]


class Comparison(NamedTuple):
    """Two arrays beside each other.

    Attributes:
      difference: the largest, absolute.
      relative: the same over the largest number of theirs.
      layout: how theirs was read, in words; ``""`` as it is.
      nans: how many numbers are NaN in both, which is left out of the difference; where all are, it
        is NaN.
    """

    difference: float
    relative: float
    layout: str
    nans: int = 0


def _moved(array: np.ndarray, source: int, target: int) -> np.ndarray:
    return np.moveaxis(array, source, target)


# In the order of preference: what agrees as it is, is as it is.
_AXES: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "": (0, lambda array: array),
    "channels first": (3, lambda array: _moved(array, 1, -1)),
    "time first": (3, lambda array: np.swapaxes(array, 0, 1)),
    "time and directions first": (4, lambda array: np.moveaxis(array, 2, 0)),
    "heads first": (4, lambda array: np.swapaxes(array, 1, 2)),
    "time first, then channels": (
        3,
        lambda array: np.transpose(array, (1, *range(2, array.ndim), 0)),
    ),
}


def read_as(
    array: np.ndarray, shape: Shape, layout: str, images: Iterable[Shape] = ()
) -> np.ndarray:
    """Their array in our shape, by a layout of ``layouts``."""
    words, _, image = layout.partition(" of ")
    if image:
        *sizes, channels = map(int, image.strip("()").split(", "))
        return _moved(array.reshape(-1, channels, *sizes), 1, -1).reshape(shape)
    return _AXES[words][1](array).reshape(shape)


@functools.lru_cache(maxsize=8192)
def layouts(theirs: Shape, ours: Shape, images: tuple[Shape, ...] = ()) -> tuple[str, ...]:
    """The layouts in which an array of theirs may be one of ours.

    Args:
      theirs, ours: shapes.
      images: shapes of images without their batch, (height, width, channels), that may have been
        flattened before.
    """
    if math.prod(theirs) != math.prod(ours):
        return ()
    stand_in = np.broadcast_to(np.int8(0), theirs)
    found = [
        words
        for words, (ndim, change) in _AXES.items()
        if len(theirs) >= ndim and _merged(change(stand_in).shape, ours)
    ]
    if len(ours) == 2 and _merged(theirs, ours):
        found += [f"channels first of {image}" for image in images if math.prod(image) == ours[1]]
    return tuple(found)


def _merged(one: Shape, other: Shape) -> bool:
    """Whether shapes differ in neighbouring axes that are one in the other, and in axes of one."""
    few, many = sorted(([n for n in shape if n != 1] for shape in (one, other)), key=len)
    rest = iter(many)
    for size in few:
        product = next(rest, 0)
        while 0 < product < size:
            product *= next(rest, 0)
        if product != size:
            return False
    return next(rest, None) is None


def compare(
    ours: np.ndarray,
    theirs: np.ndarray,
    images: tuple[Shape, ...] = (),
    mask: np.ndarray | None = None,
) -> Comparison | None:
    """The difference in the best layout; None where no layout fits."""
    best: Comparison | None = None
    for layout in layouts(theirs.shape, ours.shape, images):
        found = _difference(ours, read_as(theirs, ours.shape, layout), mask)
        # NaN is larger than all.
        if best is None or found[1] < best.relative or math.isnan(best.relative):
            best = Comparison(*found[:2], layout, found[2])
    return best


def _difference(
    ours: np.ndarray, theirs: np.ndarray, mask: np.ndarray | None
) -> tuple[float, float, int]:
    wide = np.complex128 if np.iscomplexobj(ours) or np.iscomplexobj(theirs) else np.float64
    # A scalar is an array of one number.
    a, b = (np.atleast_1d(array).astype(wide) for array in (ours, theirs))
    if mask is not None:
        valid = np.broadcast_to(mask.reshape(*mask.shape, *(1,) * (a.ndim - mask.ndim)), a.shape)
        a, b = a[valid], b[valid]
    if not a.size:
        return 0.0, 0.0, 0
    unknown = np.isnan(a) & np.isnan(b)
    nans = int(unknown.sum())
    if nans == a.size:
        return math.nan, math.nan, nans
    # Equal infinities, of masked scores, do not differ.
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)
    apart[(a == b) | unknown] = 0
    largest = float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max())
    finite = np.abs(b[np.isfinite(b)])
    scale = float(finite.max()) if finite.size else 0.0
    if largest <= max(rounding_at_zero(array.dtype) for array in (ours, theirs)):
        return largest, 0.0, nans
    return largest, largest / scale if scale else math.inf, nans


def fingerprint(array: np.ndarray) -> tuple[float, float, float, float]:
    """Numbers that no layout changes: least, largest, mean, root of the mean square."""
    if not array.size:
        return (0.0,) * 4
    wide = np.abs(array) if np.iscomplexobj(array) else array
    wide = wide.astype(np.float64)
    with np.errstate(all="ignore"):
        square = float(np.sqrt(np.mean(np.square(wide))))
        return float(wide.min()), float(wide.max()), float(wide.mean()), square
