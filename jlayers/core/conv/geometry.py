"""How a kernel moves over an image, and the part of the image that meets each kernel element.

An *offset* is the index of an element of the kernel along its spatial axes. All outputs together
read, for one offset, a strided slice of the padded image.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
from jax import lax

from ..windows import pad_or_crop


class Geometry(NamedTuple):
    """How a kernel moves over an image: one entry for each spatial axis, and the groups."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1


def channels_last(rank: int) -> lax.ConvDimensionNumbers:
    """Dimension numbers of images and kernels with ``rank`` spatial axes."""
    spatial = tuple(range(1, rank + 1))
    # lax lists the positions of batch, channels, *spatial; for kernels of out, in, *spatial.
    image = (0, rank + 1, *spatial)
    kernel = (rank + 1, rank, *range(rank))
    return lax.ConvDimensionNumbers(image, kernel, image)


def direct(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """XLA's own convolution."""
    x, geometry = _with_plain_padding(x, kernel, geometry)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=geometry.strides,
        padding=geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=channels_last(x.ndim - 2),
        feature_group_count=geometry.groups,
    )


def _with_plain_padding(
    x: jax.Array, kernel: jax.Array, geometry: Geometry
) -> tuple[jax.Array, Geometry]:
    """The same convolution with padding that XLA can be given: nearly always as it is.

    XLA for CPU reads beyond the image where the low padding is negative (openxla/xla#48713), and
    the gradients that JAX derives have ``extent - 1 - low`` and, of second order, ``reach - low``,
    where ``reach`` is from the first window to the last. An axis with more padding is padded, and
    one with negative padding cropped, before the convolution.
    """
    edges, pads = [], []
    axes = zip(x.shape[1:-1], kernel.shape, *geometry[:3], strict=False)
    for n, k, stride, (low, high), dilation in axes:
        extent = dilation * (k - 1) + 1
        most = extent - 1
        rest = 0
        if isinstance(n, int):  # an axis of symbolic size is as long as need be
            reach, rest = divmod(n + low + high - extent, stride)
            most = min(most, max(reach * stride, 0))
        # Nor does XLA take symbolic padding, which "SAME" is for a stride and a symbolic size.
        if isinstance(low, int) and 0 <= low <= most and 0 <= high <= most + rest:
            edges.append((0, 0))
            pads.append((low, high))
        else:
            # Pixels that no window reads would be negative padding in the kernel's gradient.
            edges.append((low, high - rest))
            pads.append((0, 0))
    if not any(map(any, edges)):
        return x, geometry
    return pad_or_crop(x, edges), geometry._replace(padding=tuple(pads))


def pad_image(x: jax.Array, geometry: Geometry) -> jax.Array:
    """``x`` with its padding, if there is any."""
    # In place even of zeros that a convolution could pad itself: slices need them.
    return pad_or_crop(x, geometry.padding)


def output_shape(padded: jax.Array, kernel: jax.Array, geometry: Geometry) -> tuple[int, ...]:
    """The spatial shape of the result, for an image with its padding."""
    axes = zip(padded.shape[1:-1], kernel.shape, geometry.strides, geometry.dilation, strict=False)
    return tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in axes)


def output_sizes(
    image: Sequence[int], kernel: Sequence[int], geometry: Geometry
) -> tuple[int, ...]:
    """The spatial shape of the result, for the spatial shape of an image without its padding."""
    axes = zip(image, kernel, *geometry[:3], strict=False)
    return tuple((n + low + high - d * (k - 1) - 1) // s + 1 for n, k, s, (low, high), d in axes)


def one_window(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The pixels of a padded image that has one window: (batch, elements, in)."""
    sides = zip(kernel.shape, geometry.dilation, strict=False)
    stop = [d * (k - 1) + 1 for k, d in sides]
    last = (x.shape[0], *stop, x.shape[-1])
    window = lax.slice(x, (0,) * x.ndim, last, (1, *geometry.dilation, 1))
    return window.reshape(x.shape[0], -1, x.shape[-1])


def slice_at(
    padded: jax.Array, offset: tuple[int, ...], out_shape: tuple[int, ...], geometry: Geometry
) -> jax.Array:
    """The pixels that meet the kernel element at ``offset``: (batch, *out_shape, in)."""
    start = [i * d for i, d in zip(offset, geometry.dilation, strict=True)]
    sides = zip(start, out_shape, geometry.strides, strict=True)
    stop = [first + (count - 1) * stride + 1 for first, count, stride in sides]
    return lax.slice(
        padded,
        (0, *start, 0),
        (padded.shape[0], *stop, padded.shape[-1]),
        (1, *geometry.strides, 1),
    )


def slices(
    x: jax.Array, kernel: jax.Array, geometry: Geometry
) -> Iterator[tuple[tuple[int, ...], jax.Array]]:
    """All offsets of the kernel in row-major order, each with its slice of the padded image."""
    padded = pad_image(x, geometry)
    out_shape = output_shape(padded, kernel, geometry)
    for offset in itertools.product(*map(range, kernel.shape[:-2])):
        yield offset, slice_at(padded, offset, out_shape, geometry)
