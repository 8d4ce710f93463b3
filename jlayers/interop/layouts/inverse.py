"""Layouts the other way round: their arrays from ours, by the layout's own ``convert``.

A layout moves elements about, and at most adds some up. Where ``convert`` gives views of what it is
given, ours are written through them. Otherwise it is asked with the numbers of the elements of each
array of theirs, all others being zero: what comes out says where each element went. So there is no
second description of a layout, and what was made is converted back and compared.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from .base import Layout, Place, Renamed, Shapes, Weights, has_shapes


def shapes_of(layout: Layout, place: Place) -> Shapes | None:
    """Of their arrays for a layer; None where the layout is not for it, or is only read."""
    describe = layout.shapes
    if describe is None and isinstance(layout.convert, Renamed):
        describe = layout.convert.shapes
    if describe is None:
        return None
    try:
        shapes = describe(place)
    except (ValueError, KeyError, TypeError):
        return None
    fits = shapes.keys() >= set(layout.needs) and has_shapes(layout, shapes, place)
    return shapes if fits else None


def inverted(
    layout: Layout, place: Place, ours: Weights, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Their arrays, of these shapes; those that nothing of ours goes to are left out.

    Where ours is a sum, the first of the summands has all of it, and the others are zero.

    Raises:
      ValueError: where these arrays do not come back from what the layout made of them.
    """
    made = _through_views(layout, place, ours, shapes)
    if made is None:
        made = _through_places(layout, place, ours, shapes)
    zeros = {n: np.zeros(shape, np.int64) for n, shape in shapes.items() if n not in made}
    for name, array in layout.convert(made | zeros, place).items():
        # Also of NaN, which a network that did not converge has.
        same = (array == ours[name]) | ((array != array) & (ours[name] != ours[name]))
        if not same.all():
            raise ValueError(f"{name} cannot be had back from it")
    return made


def _through_views(
    layout: Layout, place: Place, ours: Weights, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray] | None:
    """Where ``convert`` only turns arrays about, ours are written through what it gives."""
    dtypes = {array.dtype for array in ours.values()}
    if len(dtypes) != 1:
        return None
    (dtype,) = dtypes
    made = {name: np.zeros(shape, dtype) for name, shape in shapes.items()}
    views = layout.convert(made, place)
    # By the bounds of their memory, which a copy has elsewhere.
    used = {n for n, a in made.items() for v in views.values() if np.may_share_memory(a, v)}
    if not all(
        view.flags.writeable and any(np.may_share_memory(view, made[n]) for n in used)
        for view in views.values()
    ):
        return None
    for name, view in views.items():
        view[...] = ours[name]
    return {name: array for name, array in made.items() if name in used}


def _through_places(
    layout: Layout, place: Place, ours: Weights, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """By asking where the number of each element goes."""
    made: dict[str, np.ndarray] = {}
    left = {name: np.ones(array.shape, bool) for name, array in ours.items()}
    nothing = {name: np.broadcast_to(np.int64(0), shape) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        for our, places in _places(layout, place, nothing, name).items():
            if not places.any():
                continue
            dtype = ours[our].dtype
            if name in made:
                dtype = jnp.promote_types(made[name].dtype, dtype)
            flat = made.get(name, np.zeros(size, dtype)).astype(dtype, copy=False)
            here = left[our] & (places > 0)
            flat[places[here] - 1] = ours[our][here]
            left[our] &= ~here
            made[name] = flat
    return {name: flat.reshape(shapes[name]) for name, flat in made.items()}


def _places(layout: Layout, place: Place, nothing: Weights, name: str) -> dict[str, np.ndarray]:
    """For each element of ours, which element of an array it is, counted from 1; 0 for none.

    Of two elements of that array that are added up, it is the first.
    """
    shape = nothing[name].shape
    numbers = np.arange(1, nothing[name].size + 1).reshape(shape)
    found = layout.convert({**nothing, name: numbers}, place)
    summands = layout.convert({**nothing, name: np.broadcast_to(np.int8(1), shape)}, place)
    if max(array.max(initial=0) for array in summands.values()) < 2:
        return found
    squares = layout.convert({**nothing, name: numbers**2}, place)
    # Of a and b from their sum and that of their squares; one number alone is what it is.
    return {
        our: np.where(summands[our] < 2, sums, (sums - np.sqrt(2 * squares[our] - sums**2)) / 2)
        .round()
        .astype(np.int64)
        for our, sums in found.items()
    }
