"""Paddings of windows by name: how much each of them is, and what is in it.

How to read this file: ``PADDINGS`` is the table. ``amounts_of`` and ``modes_of`` look an argument
up in it, for each spatial axis; ``extend`` puts an image's own pixels around it, and
``extend_rows`` does so for rows of different lengths. Zeros are left to the operation that reads
the image, and ``apart`` says what is what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .dtypes import is_symbolic

Amounts = tuple[tuple[int, int], ...]
# A name for all axes, or for each axis a name or a (low, high).
Padding = str | Sequence[str | tuple[int, int]]

ZEROS = "zeros"
# The names of PyTorch and Equinox, and what numpy calls them.
MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class NamedPadding(NamedTuple):
    """``amounts(size, extent, stride) -> (low, high)`` of one axis, and what is in them."""

    amounts: Callable[[int, int, int], tuple[int, int]]
    mode: str = ZEROS


def _same(name: str) -> Callable[[int, int, int], tuple[int, int]]:
    return lambda n, k, s: lax.padtype_to_pads((n,), (k,), (s,), name)[0]


# As Flax has it: where there are strides, "SAME" would pad less.
def _around(n: int, k: int, s: int) -> tuple[int, int]:
    return (k - 1) // 2, k // 2


PADDINGS = {
    "VALID": NamedPadding(lambda n, k, s: (0, 0)),
    "SAME": NamedPadding(_same("SAME")),
    "SAME_LOWER": NamedPadding(_same("SAME_LOWER")),
    "CAUSAL": NamedPadding(lambda n, k, s: (k - 1, 0)),
    "REVERSE_CAUSAL": NamedPadding(lambda n, k, s: (0, k - 1)),
    "FULL": NamedPadding(lambda n, k, s: (k - 1, k - 1)),
    "REFLECT": NamedPadding(_around, "reflect"),
    "REPLICATE": NamedPadding(_around, "replicate"),
    "CIRCULAR": NamedPadding(_around, "circular"),
}
# Those that pad with zeros: a pool leaves its padding out, whatever would be in it.
OF_ZEROS = tuple(name for name, padding in PADDINGS.items() if padding.mode == ZEROS)


def for_each_axis(padding: Padding, rank: int) -> tuple[str | tuple[int, int], ...]:
    """One entry for each axis; of ``"CAUSAL"`` for all, the first is time and the others VALID."""
    if isinstance(padding, str):
        rest = "VALID" if padding in ("CAUSAL", "REVERSE_CAUSAL") else padding
        return (padding, *(rest,) * (rank - 1))
    return tuple(padding)


def amounts_of(
    sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int], padding: Padding
) -> Amounts:
    """(low, high) for each axis, for images of ``sizes`` and windows of ``extents``."""
    axes = zip(sizes, extents, strides, for_each_axis(padding, len(extents)), strict=True)
    found = [
        PADDINGS[own].amounts(n, k, s) if isinstance(own, str) else own for n, k, s, own in axes
    ]
    # That of "SAME" is symbolic where the size is, if strides divide it.
    return tuple(
        (int(low), int(high)) if isinstance(low, int | np.integer) else (low, high)
        for low, high in found
    )


def modes_of(padding: Padding, rank: int, mode: str = ZEROS) -> tuple[str, ...]:
    """What is in the padding of each axis: that of its name, or ``mode`` for all others."""
    own = [PADDINGS[p].mode if isinstance(p, str) else ZEROS for p in for_each_axis(padding, rank)]
    return tuple(mode if one == ZEROS else one for one in own)


def apart(amounts: Amounts, modes: Sequence[str]) -> tuple[Amounts, Amounts]:
    """Of (low, high) for each axis those that ``extend`` puts there, and those that are zeros."""
    none = ((0, 0),) * len(amounts)
    zeros = tuple(mode == ZEROS for mode in modes)
    around = tuple(n if zero else own for n, own, zero in zip(none, amounts, zeros, strict=True))
    left = tuple(own if zero else n for n, own, zero in zip(none, amounts, zeros, strict=True))
    return around, left


def extend(x: jax.Array, amounts: Amounts, modes: Sequence[str]) -> jax.Array:
    """``x`` with ``amounts`` of its own pixels around it.

    More than an axis holds is taken from it again and again, as ``numpy.pad`` does.
    """
    for axis, (sides, mode) in enumerate(zip(amounts, modes, strict=True), 1):
        if not any(sides):
            continue
        if mode == "replicate":
            x = _replicate(x, axis, sides)
        elif is_symbolic(x.shape[axis]):
            steps = jnp.arange(-sides[0], x.shape[axis] + sides[1])
            x = jnp.take(x, _source(steps, 0, x.shape[axis], mode), axis=axis)
        else:
            widths = [(0, 0)] * x.ndim
            widths[axis] = sides
            x = jnp.pad(x, widths, MODES[mode])
    return x


def _replicate(x: jax.Array, axis: int, sides: tuple[int, int]) -> jax.Array:
    # Not jnp.pad, which also slices the axes that it does not pad, sharded ones among them.
    def edge(at: int, size: int) -> jax.Array:
        pixels = lax.slice_in_dim(x, at, at + 1, axis=axis)
        return jnp.broadcast_to(pixels, (*x.shape[:axis], size, *x.shape[axis + 1 :]))

    return jnp.concatenate([edge(0, sides[0]), x, edge(x.shape[axis] - 1, sides[1])], axis)


def extend_rows(x: jax.Array, mask: jax.Array, sides: tuple[int, int], mode: str) -> jax.Array:
    """``x`` (batch, time, ...) padded in time as each of its rows by itself would be.

    A row is what is between its first and its last valid step; what lies beyond its own padding is
    in no window of a valid output.

    Args:
      mask: bools (batch, time).
    """
    count = x.shape[1]
    first = jnp.argmax(mask, 1)
    size = count - jnp.argmax(mask[:, ::-1], 1) - first
    steps = jnp.arange(-sides[0], count + sides[1])

    def of_row(row: jax.Array, first: jax.Array, size: jax.Array) -> jax.Array:
        return jnp.take(row, _source(steps, first, size, mode), axis=0, mode="clip")

    return jax.vmap(of_row)(x, first, size)


def _source(
    steps: jax.Array, first: jax.Array | int, size: jax.Array | int, mode: str
) -> jax.Array:
    """The step, of ``size`` from ``first`` on, that is read at each of ``steps``."""
    place = steps - first
    if mode == "replicate":
        place = jnp.clip(place, 0, size - 1)
    elif mode == "circular":
        place = place % size
    else:
        period = jnp.maximum(2 * (size - 1), 1)  # of a single step there is nothing to mirror
        place = place % period
        place = jnp.minimum(place, period - place)
    return place + first
