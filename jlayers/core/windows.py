"""Windows that move over images, and the ways to reduce each to one number."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Pads = str | Sequence[tuple[int, int]]
# A side of a window that is longer is reduced by XLA: taken apart, the program would be as long.
_LONG = 32

Combine = Callable[[jax.Array, jax.Array], jax.Array]


def explicit_padding(
    x: jax.Array, window: Sequence[int], strides: Sequence[int], padding: Pads
) -> tuple[tuple[int, int], ...]:
    """(low, high) for each spatial axis."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:-1], tuple(window), tuple(strides), padding)
    return tuple((int(low), int(high)) for low, high in padding)


class Windows(NamedTuple):
    """One entry for each spatial axis of images (batch, *spatial, channels)."""

    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    def reduce(
        self, x: jax.Array, start: np.ndarray, combine: Callable[..., jax.Array]
    ) -> jax.Array:
        """XLA's own."""
        return lax.reduce_window(  # type: ignore[no-any-return]
            x,
            start,
            combine,
            (1, *self.window, 1),
            (1, *self.strides, 1),
            ((0, 0), *self.padding, (0, 0)),
        )

    def by_axes(self, x: jax.Array, start: np.ndarray, combine: Combine) -> jax.Array:
        """One axis after the other: the sum of the window's sides in place of their product."""
        for axis in range(len(self.window)):
            rank, here = len(self.window), axis + 1
            alone = Windows(
                (1,) * axis + self.window[axis:here] + (1,) * (rank - here),
                (1,) * axis + self.strides[axis:here] + (1,) * (rank - here),
                ((0, 0),) * axis + self.padding[axis:here] + ((0, 0),) * (rank - here),
            )
            if self.window[axis] > _LONG:
                x = alone.reduce(x, start, combine)
                continue
            total = None
            for _, part in alone.taps(x, start):
                total = part if total is None else combine(total, part)
            assert total is not None
            x = total
        return x

    def by_taps(self, x: jax.Array) -> jax.Array:
        """The sum over the taps of the window, each a part of the image."""
        total = None
        for _, part in self.taps(x, np.array(0, x.dtype)):
            total = part if total is None else total + part
        assert total is not None
        return total

    def taps(self, x: jax.Array, start: np.ndarray) -> Iterator[tuple[tuple[int, ...], jax.Array]]:
        """Every position in the window with what stands there, for all windows at once."""
        if any(map(any, self.padding)):
            edges = [(0, 0, 0), *((*pads, 0) for pads in self.padding), (0, 0, 0)]
            x = lax.pad(x, start, edges)
        axes = zip(x.shape[1:-1], self.window, self.strides, strict=True)
        size = [(n - k) // s + 1 for n, k, s in axes]
        for tap in itertools.product(*map(range, self.window)):
            stop = [t + (m - 1) * s + 1 for t, m, s in zip(tap, size, self.strides, strict=True)]
            yield (
                tap,
                lax.slice(
                    x,
                    (0, *tap, 0),
                    (x.shape[0], *stop, x.shape[-1]),
                    (1, *self.strides, 1),
                ),
            )


def interleave(phases: Sequence[jax.Array], strides: Sequence[int]) -> jax.Array:
    """The image of which each of the ``phases`` is every ``strides``-th step, first to last.

    Args:
      phases: (batch, *steps, channels), one for each position in ``strides``, last axis fastest.

    Returns:
      (batch, *(steps * strides), channels).
    """
    batch, *steps, channels = phases[0].shape
    rank = len(steps)
    y = jnp.stack(phases, -2).reshape(batch, *steps, *strides, channels)
    # (batch, *steps, *strides, channels): each stride beside its axis
    order = [0, *(i for a in range(rank) for i in (1 + a, 1 + rank + a)), 2 * rank + 1]
    y = jnp.transpose(y, order)
    # One axis at a time: all at once is not defined for arrays that are spread over devices.
    for a in range(rank):
        y = y.reshape(*y.shape[: 1 + a], -1, *y.shape[3 + a :])
    return y
