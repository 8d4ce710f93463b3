"""Windows that move over images, and the ways to reduce each to one number."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .custom_gradient import pullback

Pads = str | Sequence[tuple[int, int]]
# A side of a window that is longer is reduced by XLA: taken apart, the program would be as long.
_LONG = 32

Combine = Callable[[jax.Array, jax.Array], jax.Array]


def explicit_padding(
    x: jax.Array, window: Sequence[int], strides: Sequence[int], padding: Pads
) -> tuple[tuple[int, int], ...]:
    """(low, high) for each spatial axis; ``"CAUSAL"`` pads before the first of them alone."""
    if padding == "CAUSAL":
        return ((window[0] - 1, 0), *(((0, 0),) * (len(window) - 1)))
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
            x = self.along(axis).by_axis(axis, x, start, combine)
        return x

    def along(self, axis: int) -> Windows:
        """These windows on one axis alone, a single element on the others."""
        before, after = axis, len(self.window) - axis - 1
        return Windows(
            (1,) * before + (self.window[axis],) + (1,) * after,
            (1,) * before + (self.strides[axis],) + (1,) * after,
            ((0, 0),) * before + (self.padding[axis],) + ((0, 0),) * after,
        )

    def by_axis(self, axis: int, x: jax.Array, start: np.ndarray, combine: Combine) -> jax.Array:
        """The reduction of windows that lie along one ``axis``."""
        if self.window[axis] == x.shape[axis + 1] and not any(self.padding[axis]):
            return lax.expand_dims(lax.reduce(x, start, combine, (axis + 1,)), (axis + 1,))
        # Taps of a padded image are parts of a padded copy, which costs more than it saves.
        if any(self.padding[axis]) or self.window[axis] > _LONG:
            return self.reduce(x, start, combine)
        return functools.reduce(combine, self.taps(x, start))

    def gather(self, axis: int, ct: jax.Array, size: int, at: jax.Array | None = None) -> jax.Array:
        """For each pixel along ``axis`` the sum over the windows that it lies in, as ``ct`` has it.

        Args:
          axis: that along which the windows lie.
          ct: a number for each window.
          size: the number of pixels along the axis.
          at: of ``ct``'s shape; the tap that alone has the number, if not all of them have.

        Returns:
          An array like ``ct`` but for the ``size`` of the axis.
        """
        window, stride, (low, _) = self.window[axis], self.strides[axis], self.padding[axis]
        here, many = axis + 1, ct.shape[axis + 1]
        before, after = ct.shape[:here], ct.shape[here + 1 :]
        if at is None and window > max(_LONG, stride):
            # One part of the program for each tap would be too many.
            zero = np.array(0, ct.dtype)
            image = jax.ShapeDtypeStruct((*before, size, *after), ct.dtype)
            return pullback(lambda x: self.reduce(x, zero, lax.add), image, ct)  # type: ignore[arg-type]
        steps, reach = -(-(low + size) // stride), (window - 1) // stride

        def of_tap(parts: Sequence[jax.Array], tap: jax.Array | int) -> jax.Array:
            numbers, *won = parts
            return jnp.where(won[0] == tap, numbers, jnp.zeros_like(numbers)) if won else numbers

        parts = [ct] if at is None else [ct, at]
        if window == stride and steps == many:
            # A window's taps lie side by side, and no pixel has two windows.
            shape = (*before, many, stride, *after)
            kept = [i for i in range(len(shape)) if i != here + 1]
            parts = [lax.broadcast_in_dim(part, shape, kept) for part in parts]
            y = of_tap(parts, lax.broadcasted_iota(jnp.int32, shape, here + 1))
        else:
            edges = [(0, 0, 0)] * ct.ndim
            edges[here] = (reach, steps - many, 0)
            # Computed once: without barriers, XLA goes through all windows again for every tap.
            fills = (np.array(0, ct.dtype), np.array(-1, np.int32))
            parts = [
                lax.optimization_barrier(lax.pad(part, fill, edges))
                for part, fill in zip(parts, fills, strict=False)
            ]
            phases: list[jax.Array] = []
            for phase in range(stride):
                total = None
                for tap in range(phase, window, stride):
                    start = reach - tap // stride
                    mine = [lax.slice_in_dim(a, start, start + steps, axis=here) for a in parts]
                    part = of_tap(mine, tap)
                    total = part if total is None else total + part
                phases.append(jnp.zeros_like(phases[0]) if total is None else total)
            y = jnp.stack(phases, here + 1)
        y = y.reshape(*before, steps * stride, *after)
        return lax.slice_in_dim(y, low, low + size, axis=here)

    def taps(self, x: jax.Array, start: np.ndarray) -> Iterator[jax.Array]:
        """What stands at each position in the window, for all windows at once."""
        if any(map(any, self.padding)):
            edges = [(0, 0, 0), *((*pads, 0) for pads in self.padding), (0, 0, 0)]
            x = lax.pad(x, start, edges)
        axes = zip(x.shape[1:-1], self.window, self.strides, strict=True)
        size = [(n - k) // s + 1 for n, k, s in axes]
        for tap in itertools.product(*map(range, self.window)):
            stop = [t + (m - 1) * s + 1 for t, m, s in zip(tap, size, self.strides, strict=True)]
            limits = (x.shape[0], *stop, x.shape[-1])
            yield lax.slice(x, (0, *tap, 0), limits, (1, *self.strides, 1))


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
