"""Algorithms for a convolution, equal up to rounding. ``conv.py`` chooses among them.

All take x (batch, *spatial, in), kernel (*kernel_size, in / groups, out) and a ``Geometry``.

How to read this file: ``algorithm`` at its end names the programs of each method, for the value
and for the gradients of image and kernel. Where a section has a function for a gradient, XLA's own
transpose of the forward program is slow; everywhere else it is what runs. The sections, in order:
``matmul``, ``patches``, ``blocks``, ``planes``; ``rows.py`` and ``shifted.py`` have two more. The
tables behind them are in docs/notes/0009-compiled-cores.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ..custom_gradient import BilinearRule
from ..dtypes import at_least_float32, is_symbolic
from .geometry import (
    Geometry,
    direct,
    one_window,
    output_shape,
    output_sizes,
    pad_image,
    slice_at,
)
from .rows import rows_rule
from .shifted import shifted_rule

# Windows of up to so many elements that touch without overlapping leave nothing to gain in the
# gradient of the image; for those of 16 x 16 it is 35 times faster than XLA's.
_MAX_SMALL_WINDOW = 4
# Channels of the small dense convolutions that groups are put together into.
_MIN_CHANNELS = 16
# Patches of overlapping windows are a slice for each element of the kernel, which take some 0.1 s
# each to compile: a kernel of 1,040 elements took 148 s, and XLA's own 0.7 s.
_MAX_PATCH_ELEMENTS = 64


def matmul(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """A kernel of one element: a matrix product over all pixels."""
    x = pad_image(x, geometry)
    x = slice_at(x, (0,) * len(geometry.strides), output_shape(x, kernel, geometry), geometry)
    # Two axes: the kernel's gradient contracts over one, where over three XLA copies first.
    y = x.reshape(-1, x.shape[-1]) @ kernel.reshape(kernel.shape[-2:])
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


def patches(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The receptive field of each output as a row (im2col), and one product with the kernel."""
    x = pad_image(x, geometry)
    kernel_size, out_shape = kernel.shape[:-2], output_shape(x, kernel, geometry)
    if set(out_shape) == {1}:
        return _one_output(x, kernel, geometry)
    if _tiles_image(kernel.shape, geometry):
        rows = _tiles(x, kernel_size, out_shape)
    else:
        offsets = itertools.product(*map(range, kernel_size))
        rows = jnp.concatenate([slice_at(x, offset, out_shape, geometry) for offset in offsets], -1)
    y = rows.reshape(-1, rows.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(x.shape[0], *out_shape, kernel.shape[-1])


def _one_output(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The product of an image's one window with the kernel as it lies in memory."""
    window, (inputs, features) = one_window(x, kernel, geometry), kernel.shape[-2:]
    shape = (x.shape[0], *(1 for _ in geometry.strides), features)
    if x.shape[0] != 1:
        return (window.reshape(x.shape[0], -1) @ kernel.reshape(-1, features)).reshape(shape)
    # Of one row, a product for each element of the kernel: XLA for CPU reads a tall matrix slowly
    # where it has one row to multiply (6.5 ms became 3.3 for 257 elements of 256 x 256).
    each = jnp.einsum(
        "ki,kif->kf",
        window[0],
        kernel.reshape(-1, inputs, features),
        preferred_element_type=at_least_float32(x.dtype),
    )
    return jnp.sum(each, 0).astype(x.dtype).reshape(shape)


def is_small(image: Sequence[int], kernel: Sequence[int]) -> bool:
    """Whether the kernel is larger than the image along every axis, and not too large for patches.

    XLA for CPU has no fast convolution of such images: 70 ms for 3x3 kernels on (8, 2, 2, 512),
    where the product with patches takes 1.3. Dilation does not count: 7x7 kernels with dilation 2
    on (64, 10, 10, 128) take 58 ms there, and 217 as patches.
    """
    if is_symbolic(*image) or math.prod(kernel[:-2]) > _MAX_PATCH_ELEMENTS:
        return False
    return all(n < k for n, k in zip(image, kernel, strict=False))


def _tiles_image(kernel: Sequence[int], geometry: Geometry) -> bool:
    """Whether the windows touch without overlapping, so that patches are a mere transpose."""
    return tuple(kernel[:-2]) == geometry.strides and all(d == 1 for d in geometry.dilation)


def _tiles(x: jax.Array, tile: tuple[int, ...], out_shape: tuple[int, ...]) -> jax.Array:
    """An image cut into tiles: (batch, *out_shape, elements of a tile * in)."""
    rank = len(tile)
    covered = (slice(n * k) for n, k in zip(out_shape, tile, strict=True))
    pairs = (n for pair in zip(out_shape, tile, strict=True) for n in pair)
    x = x[(slice(None), *covered)].reshape(x.shape[0], *pairs, x.shape[-1])
    outer, inner = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
    x = jnp.transpose(x, (0, *outer, *inner, 2 * rank + 1))
    return x.reshape(x.shape[0], *out_shape, -1)


def blocks(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Groups put together into dense convolutions of some 16 channels, zero between groups.

    The zeros cost arithmetic, and less than a narrow convolution loses.
    """
    inputs, features = kernel.shape[-2], kernel.shape[-1] // geometry.groups
    narrowest = min(inputs, features)
    # The smallest number of groups that fills a block; all of them where they are too few.
    merged = next(
        m
        for m in range(1, geometry.groups + 1)
        if geometry.groups % m == 0 and (m * narrowest >= _MIN_CHANNELS or m == geometry.groups)
    )
    kernel_size, count = kernel.shape[:-2], geometry.groups // merged
    # (*kernel_size, in, block, group, out) to (*kernel_size, block, group, in, group, out), where
    # everything off the diagonal of the two group axes is zero
    parts = kernel.reshape(*kernel_size, inputs, count, merged, features)
    parts = jnp.moveaxis(parts, -4, -2)
    if merged > 1:
        shape = (*kernel_size, count, merged, merged, inputs, features)
        diagonal = jnp.broadcast_to(jnp.eye(merged, dtype=bool)[:, :, None, None], shape)
        parts = jnp.broadcast_to(jnp.expand_dims(parts, -3), shape)
        parts = jnp.where(diagonal, parts, jnp.zeros((), x.dtype))
        parts = jnp.swapaxes(parts, -3, -2)
    parts = parts.reshape(*kernel_size, count, merged * inputs, merged * features)
    dense = planes if len(kernel_size) == 3 else direct
    if is_small(x.shape[1:-1], kernel.shape):
        dense = patches
    width = merged * inputs
    # Each block on its own: one convolution with `feature_group_count` would be slow again.
    return lax.concatenate(
        [
            dense(
                lax.slice_in_dim(x, i * width, (i + 1) * width, axis=x.ndim - 1),
                parts[..., i, :, :],
                geometry._replace(groups=1),
            )
            for i in range(count)
        ],
        x.ndim - 1,
    )


def planes(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """3-D as 2-D: the kernel's first spatial axis becomes channels, the image's becomes batch."""
    first = Geometry(geometry.strides[:1], geometry.padding[:1], geometry.dilation[:1])
    rest = Geometry(geometry.strides[1:], geometry.padding[1:], geometry.dilation[1:])
    padded = pad_image(x, geometry._replace(padding=(*first.padding, (0, 0), (0, 0))))
    (stride,), (dilation,) = first.strides, first.dilation
    extent = dilation * (kernel.shape[0] - 1) + 1
    depth = (padded.shape[1] - extent) // stride + 1
    stacked = lax.concatenate(
        [
            lax.slice_in_dim(
                padded, i * dilation, i * dilation + (depth - 1) * stride + 1, stride, axis=1
            )
            for i in range(kernel.shape[0])
        ],
        x.ndim - 1,
    )
    images = stacked.reshape(-1, *stacked.shape[2:])
    kernel = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, kernel.shape[-1])
    # A kernel along the first axis alone is a product once its elements are channels.
    run = matmul if kernel.shape[:2] == (1, 1) else direct
    y = run(images, kernel, rest)
    return y.reshape(x.shape[0], depth, *y.shape[1:])


def _lines(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """``planes`` for a kernel along the first axis alone: the other two become one axis."""
    batch, depth, *plane, channels = x.shape
    two_axes = Geometry(
        (geometry.strides[0], 1), (geometry.padding[0], (0, 0)), (geometry.dilation[0], 1)
    )
    images = x.reshape(batch, depth, -1, channels)
    y = direct(images, kernel.reshape(kernel.shape[0], 1, *kernel.shape[-2:]), two_axes)
    return y.reshape(batch, y.shape[1], *plane, -1)


def _planes_or_lines(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    same_plane = set(geometry.strides[1:]) == {1} and not any(map(any, geometry.padding[1:]))
    run = _lines if kernel.shape[1:3] == (1, 1) and same_plane else planes
    return run(x, kernel, geometry)


def algorithm(
    method: str, image: Sequence[int], kernel: Sequence[int], geometry: Geometry
) -> BilinearRule:
    """The programs of a method for an image and a kernel of these shapes."""
    if method == "rows":
        return rows_rule(geometry)
    if method == "shifted":
        return shifted_rule(kernel, geometry)
    value = {
        "direct": direct,
        "matmul": matmul,
        "patches": patches,
        "blocks": blocks,
        "planes": planes,
    }[method]

    def run(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return value(x, kernel, geometry)

    def xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return direct(x, kernel, geometry)

    def by_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return patches(x, kernel, geometry)

    # The gradient of the image is a convolution of the output, whose image it is then.
    outputs = output_sizes(image[1:-1], kernel, geometry)
    # One output is one patch, of any size.
    one = not is_symbolic(*outputs) and set(outputs) == {1} and 1 not in kernel[:-2]
    small_output = one or is_small(outputs, kernel)
    if method == "patches":
        tiled = _tiles_image(kernel, geometry)
        # XLA sums overlapping patches faster; for small ones without overlap it is as good.
        large = math.prod(kernel[:-2]) > _MAX_SMALL_WINDOW
        sums = (tiled and large) or small_output
        # Tiles pay off in the gradients alone: forward they go to XLA.
        return BilinearRule(xla if tiled else run, for_lhs=run if sums else xla, for_rhs=run)
    if method == "direct" and small_output and geometry.groups == 1:
        return BilinearRule(run, for_lhs=by_patches)
    if method == "planes":
        # The gradient of the kernel is that of planes even where `_lines` computes the value.
        return BilinearRule(lambda x, kernel: _planes_or_lines(x, kernel, geometry), for_rhs=run)
    if method == "matmul" and any(stride > 1 for stride in geometry.strides):
        # Alone, the product loses to XLA by the copy that the strides make; the gradients do not.
        return BilinearRule(xla, for_lhs=run, for_rhs=run)
    return BilinearRule(run)
