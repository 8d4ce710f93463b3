"""Windows that move over images, and the ways to reduce each of them to one number.

How to read this file: ``explicit_padding`` turns padding by name into numbers, by the table of
``padding.py``. ``Windows`` is the
geometry of a pool, with the forward pass in two ways (``reduce``, XLA's own, and
``reduce_by_axis``) and one half of its gradient (``sum_over_windows``). An *offset* is a position
inside the window; ``slices`` has, for each offset, the values there of all windows at once, as a
strided slice of the image. ``interleave`` is the opposite for transposed convolutions: it puts
strided images together.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .custom_gradient import apply_transpose
from .dtypes import is_sharded, is_symbolic
from .padding import Padding as Padding
from .padding import amounts_of

Combine = Callable[[jax.Array, jax.Array], jax.Array]

# XLA reduces a longer side of a window: with one slice per offset, the program would be as long.
_MAX_SLICES = 32


def explicit_padding(
    x: jax.Array | jax.ShapeDtypeStruct,
    window_shape: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
) -> tuple[tuple[int, int], ...]:
    """(low, high) for each spatial axis, of a padding by names or in numbers."""
    return amounts_of(x.shape[1:-1], window_shape, strides, padding)


def ceil_padding(
    sizes: Sequence[int],
    extents: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> tuple[tuple[int, int], ...]:
    """``padding`` with more of it at the end, where the last stride would be cut off.

    The last window may reach beyond the padded axis; it starts before the padding at the end, as in
    PyTorch.

    Args:
      extents: of the windows, the holes of dilation included.

    >>> ceil_padding((5,), (2,), (2,), [(0, 0)])
    ((0, 1),)
    """
    pads = []
    for n, k, s, (low, high) in zip(sizes, extents, strides, padding, strict=True):
        # As much as any size needs: a stride less one, and no window without a pixel.
        most = max(high, min(high + s - 1, k - 1))
        # What no window reads would cost a copy.
        unread = 0 if is_symbolic(n) else (n + low + most - k) % s
        pads.append((low, max(high, most - unread)))
    return tuple(pads)


def pad_or_crop(
    x: jax.Array, edges: Sequence[tuple[int, int]], fill: np.ndarray | float = 0
) -> jax.Array:
    """``x`` with its spatial axes padded by (low, high), or cropped where these are negative.

    Cropped by slices: XLA adds the negative edges of ``lax.pad`` to the padding of what reads the
    result, which then reads the pixels that were cut off (openxla/xla#48715).
    """
    if not any(map(any, edges)):
        return x
    config = [(0, 0, 0)] * x.ndim
    for axis, (low, high) in enumerate(edges, 1):
        size = x.shape[axis]
        if is_symbolic(low, high):  # that of "SAME", which crops nothing
            config[axis] = (low, high, 0)
            continue
        before, after = max(low, 0), max(high, 0)
        if low < 0 or high < 0:
            start, stop = max(-low, 0), size + min(high, 0)
            if isinstance(size, int):  # more than the axis has may be cut off one side
                start = min(start, size)
                stop = max(stop, start)
                before = min(before, size + low + high)
                after = size + low + high - (stop - start) - before
            x = lax.slice_in_dim(x, start, stop, axis=axis)
        config[axis] = (before, after, 0)
    return lax.pad(x, np.asarray(fill, x.dtype), config)


class Windows(NamedTuple):
    """One entry for each spatial axis of images (batch, *spatial, channels)."""

    window_shape: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """How many pixels a window covers, the holes of dilation included."""
        pairs = zip(self.window_shape, self.dilation, strict=True)
        return tuple(d * (k - 1) + 1 for k, d in pairs)

    def reduce(self, x: jax.Array, init: np.ndarray, combine: Combine) -> jax.Array:
        """XLA's own reduction, over all axes of the window at once."""
        # As for convolutions (geometry.py), padding that is negative, here or in the gradient.
        plain = all(
            is_symbolic(low, high) or (0 <= low < size and 0 <= high < size)
            for size, (low, high) in zip(self.extents, self.padding, strict=True)
        )
        if not plain:
            padding = ((0, 0),) * len(self.padding)
            padded = pad_or_crop(x, self.padding, init)
            return self._replace(padding=padding).reduce(padded, init, combine)
        return lax.reduce_window(  # type: ignore[no-any-return]
            x,
            init,
            combine,
            (1, *self.window_shape, 1),
            (1, *self.strides, 1),
            ((0, 0), *self.padding, (0, 0)),
            window_dilation=(1, *self.dilation, 1),
        )

    def reduce_by_axis(self, x: jax.Array, init: np.ndarray, combine: Combine) -> jax.Array:
        """One axis after the other: the sum of the window's sides in place of their product."""
        for axis in range(len(self.window_shape)):
            x = self.along(axis).reduce_axis(axis, x, init, combine)
        return x

    def fold(self, x: jax.Array, init: np.ndarray, combine: Combine) -> jax.Array:
        """One axis after the other by slices: for any ``combine``, with JAX's own gradients."""
        for axis in range(len(self.window_shape)):
            x = functools.reduce(combine, self.along(axis).slices(x, init))
        return x

    def along(self, axis: int) -> Windows:
        """These windows on one axis alone, a single element on the others."""
        before, after = axis, len(self.window_shape) - axis - 1
        return Windows(
            (1,) * before + (self.window_shape[axis],) + (1,) * after,
            (1,) * before + (self.strides[axis],) + (1,) * after,
            ((0, 0),) * before + (self.padding[axis],) + ((0, 0),) * after,
            (1,) * before + (self.dilation[axis],) + (1,) * after,
        )

    def reduce_axis(self, axis: int, x: jax.Array, init: np.ndarray, combine: Combine) -> jax.Array:
        """The reduction of windows that lie along one ``axis``."""
        if self.window_shape[axis] == x.shape[axis + 1] and not any(self.padding[axis]):
            return lax.expand_dims(lax.reduce(x, init, combine, (axis + 1,)), (axis + 1,))
        # Slices of a padded image need a padded copy, which costs more than the slices save:
        # 12 ms instead of 2 for 112x112 images (docs/notes/0009-compiled-cores.md). Gathers need
        # none, but enough channels side by side.
        padded = any(self.padding[axis])
        gathers = not is_symbolic(*x.shape[1:]) and x.shape[-1] >= 16 and not is_sharded(x)
        if self.window_shape[axis] > _MAX_SLICES or (padded and not gathers):
            return self.reduce(x, init, combine)
        if padded:
            return functools.reduce(combine, self._gathered(axis, x, init))
        return functools.reduce(combine, self.slices(x, init))

    def _gathered(self, axis: int, x: jax.Array, pad_value: np.ndarray) -> Iterator[jax.Array]:
        """As ``slices``, of windows along one ``axis``: padding is looked up as a pixel is."""
        size, (low, high) = x.shape[axis + 1], self.padding[axis]
        count = max((size + low + high - self.extents[axis]) // self.strides[axis] + 1, 0)
        shape = [1] * x.ndim
        shape[axis + 1] = count
        before = (slice(None),) * (axis + 1)
        for offset in range(0, self.extents[axis], self.dilation[axis]):
            places = np.arange(count) * self.strides[axis] - low + offset
            inside = (places >= 0) & (places < size)
            nearest = jnp.asarray(np.clip(places, 0, size - 1), jnp.int32)
            values = x.at[(*before, nearest)].get(mode="promise_in_bounds")
            if not inside.all():
                values = jnp.where(inside.reshape(shape), values, pad_value)
            yield values

    def slices(self, x: jax.Array, pad_value: np.ndarray) -> Iterator[jax.Array]:
        """For each offset in the window, in row-major order, the values there of all windows."""
        x = pad_or_crop(x, self.padding, pad_value)
        axes = zip(x.shape[1:-1], self.extents, self.strides, strict=True)
        counts = [(n - k) // s + 1 for n, k, s in axes]
        for offset in itertools.product(
            *map(range, (0,) * len(counts), self.extents, self.dilation)
        ):
            ends = zip(offset, counts, self.strides, strict=True)
            stop = [first + (count - 1) * stride + 1 for first, count, stride in ends]
            limits = (x.shape[0], *stop, x.shape[-1])
            yield lax.slice(x, (0, *offset, 0), limits, (1, *self.strides, 1))

    def sum_over_windows(
        self, axis: int, ct: jax.Array, size: int, selected: jax.Array | None = None
    ) -> jax.Array:
        """For each pixel along ``axis``, the sum of ``ct`` over the windows that contain it.

        That is the gradient of a reduction along the axis, written as a gather: each pixel looks
        its windows up, where XLA's select-and-scatter runs one window at a time.

        Args:
          axis: the spatial axis along which the windows lie.
          ct: a number for each window.
          size: the number of pixels along the axis.
          selected: int32 of the shape of ``ct``, the only offset in the window that receives the
            number (the maximum's), in pixels from its first; all of them receive it if None.

        Returns:
          An array like ``ct`` but for the ``size`` of the axis.
        """
        window, stride, dilation = self.extents[axis], self.strides[axis], self.dilation[axis]
        (low, _), dim = self.padding[axis], axis + 1
        count = ct.shape[dim]
        before, after = ct.shape[:dim], ct.shape[dim + 1 :]
        if selected is None and window > max(_MAX_SLICES, stride):
            # One slice of the program for each offset would be too many.
            zero = np.array(0, ct.dtype)
            # Of the type of ``ct``, which may be spread over devices.
            edges = [(0, size - count if axis == dim else 0, 0) for axis in range(ct.ndim)]
            image = lax.pad(ct, zero, edges)
            return apply_transpose(lambda x: self.reduce(x, zero, lax.add), image, ct)
        # Pixels in blocks of one stride. The windows of a block begin in it or up to `lookback`
        # blocks before.
        blocks, lookback = -(-(low + size) // stride), (window - 1) // stride

        def at_offset(parts: Sequence[jax.Array], offset: jax.Array | int) -> jax.Array:
            numbers, *rest = parts
            if not rest:
                return numbers
            return jnp.where(rest[0] == offset, numbers, jnp.zeros_like(numbers))

        parts = [ct] if selected is None else [ct, selected]
        if window == stride and blocks == count and dilation == 1:
            # The windows lie side by side, and no pixel is in two of them: one comparison.
            shape = (*before, count, stride, *after)
            dims = [i for i in range(len(shape)) if i != dim + 1]
            parts = [lax.broadcast_in_dim(part, shape, dims) for part in parts]
            y = at_offset(parts, lax.broadcasted_iota(jnp.int32, shape, dim + 1))
        else:
            edges = [(0, 0, 0)] * ct.ndim
            edges[dim] = (lookback, blocks - count, 0)
            # Offset -1 is in no window. The barrier has both padded arrays computed once: without
            # it, XLA goes through all windows again for every offset.
            fills = (np.array(0, ct.dtype), np.array(-1, np.int32))
            parts = [
                lax.optimization_barrier(lax.pad(part, fill, edges))
                for part, fill in zip(parts, fills, strict=False)
            ]
            phases: list[jax.Array] = []
            for phase in range(stride):
                total = None
                for offset in range(phase, window, stride):
                    if offset % dilation:
                        continue
                    start = lookback - offset // stride
                    shifted = [lax.slice_in_dim(a, start, start + blocks, axis=dim) for a in parts]
                    term = at_offset(shifted, offset)
                    total = term if total is None else total + term
                phases.append(jnp.zeros_like(phases[0]) if total is None else total)
            y = jnp.stack(phases, dim + 1)
        y = y.reshape(*before, blocks * stride, *after)
        return lax.slice_in_dim(y, low, low + size, axis=dim)


def interleave(phases: Sequence[jax.Array], strides: Sequence[int]) -> jax.Array:
    """The image of which each of the ``phases`` is every ``strides``-th step.

    Args:
      phases: (batch, *steps, channels), one for each position within ``strides``, in row-major
        order.

    Returns:
      (batch, *(steps * strides), channels).
    """
    batch, *steps, channels = phases[0].shape
    rank = len(steps)
    y = jnp.stack(phases, -2).reshape(batch, *steps, *strides, channels)
    # (batch, *steps, *strides, channels): each stride next to its axis
    order = [0, *(i for a in range(rank) for i in (1 + a, 1 + rank + a)), 2 * rank + 1]
    y = jnp.transpose(y, order)
    # One axis at a time: a reshape of all at once is not defined for arrays that are sharded.
    for a in range(rank):
        y = y.reshape(*y.shape[: 1 + a], steps[a] * strides[a], *y.shape[3 + a :])
    return y
