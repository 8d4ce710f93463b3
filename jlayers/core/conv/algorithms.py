"""Algorithms for a convolution, equal up to rounding. ``conv.py`` chooses among them.

All take x (batch, *spatial, in), kernel (*kernel_size, in / groups, out) and a ``Geometry``.

How to read this file: ``algorithm`` at its end names the programs of each method, for the value
and for the gradients of image and kernel. Where a section has a function for a gradient, XLA's own
transpose of the forward program is slow; everywhere else it is what runs. The sections, in order:
``matmul``, ``patches``, ``shifted``, ``blocks``, ``planes``. The tables behind them are in
docs/notes/0009-compiled-cores.md.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..custom_gradient import BilinearRule
from ..dtypes import at_least_float32, is_symbolic
from .geometry import Geometry, direct, output_shape, output_sizes, pad_image, slice_at, slices
from .rows import rows_rule

# With fewer kernel elements, sums of padded arrays, fused in one loop, beat slices of a padded
# copy.
_MIN_SLICED_ELEMENTS = 16
# A single output of at least as many is a product with ones: 1.2 to 1.7x as fast for 257.
_MIN_SUMMED_ELEMENTS = 64
# Windows of up to so many elements that touch without overlapping leave nothing to gain in the
# gradient of the image; for those of 16 x 16 it is 35 times faster than XLA's.
_MAX_SMALL_WINDOW = 4
# Channels of the small dense convolutions that groups are put together into.
_MIN_CHANNELS = 16


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


def _one_window(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The pixels of a padded image that has one window: (batch, elements, in)."""
    sides = zip(kernel.shape, geometry.dilation, strict=False)
    stop = [d * (k - 1) + 1 for k, d in sides]
    last = (x.shape[0], *stop, x.shape[-1])
    window = lax.slice(x, (0,) * x.ndim, last, (1, *geometry.dilation, 1))
    return window.reshape(x.shape[0], -1, x.shape[-1])


def _one_output(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The product of an image's one window with the kernel as it lies in memory."""
    window, (inputs, features) = _one_window(x, kernel, geometry), kernel.shape[-2:]
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
    """Whether the kernel is larger than the image along every axis.

    XLA for CPU has no fast convolution of such images: 70 ms for 3x3 kernels on (8, 2, 2, 512),
    where the product with patches takes 1.3. Dilation does not count: 7x7 kernels with dilation 2
    on (64, 10, 10, 128) take 58 ms there, and 217 as patches.
    """
    return not is_symbolic(*image) and all(n < k for n, k in zip(image, kernel, strict=False))


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


def shifted(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """One channel a group: a sum of shifted images, each times a number for each channel.

    XLA for CPU runs grouped convolutions one group at a time: this is about 20 times faster.
    """
    wide, features = at_least_float32(x.dtype), kernel.shape[-1]
    weights = kernel.reshape(-1, features).astype(wide)
    if len(weights) >= _MIN_SUMMED_ELEMENTS and set(
        output_sizes(x.shape[1:-1], kernel.shape, geometry)
    ) == {1}:
        window = _one_window(pad_image(x, geometry), kernel, geometry).astype(wide)
        window = _repeat_channels(window, features)
        products = lax.mul(window, jnp.broadcast_to(weights, window.shape))
        # Two rows of ones, as in the gradient of the kernel.
        sums = jnp.einsum("jk,bkf->jbf", jnp.ones((2, len(weights)), wide), products)[0]
        return sums.astype(x.dtype).reshape(x.shape[0], *(1 for _ in geometry.strides), features)
    total = None
    for row, (_, image) in enumerate(slices(x, kernel, geometry)):
        image = _repeat_channels(image.astype(wide), features)
        weight = lax.slice_in_dim(weights, row, row + 1)
        last_two = (image.ndim - 2, image.ndim - 1)
        term = lax.mul(image, lax.broadcast_in_dim(weight, image.shape, last_two))
        total = term if total is None else lax.add(total, term)
    assert total is not None
    return total.astype(x.dtype)


def _repeat_channels(image: jax.Array, features: int) -> jax.Array:
    """(..., C) to (..., features), with each channel as often as need be, side by side."""
    multiplier = features // image.shape[-1]
    if multiplier == 1:
        return image
    shape = (*image.shape, multiplier)
    image = lax.broadcast_in_dim(image, shape, range(image.ndim))
    return image.reshape(*shape[:-2], features)


def _flips(kernel: Sequence[int], geometry: Geometry) -> bool:
    """Whether the image's gradient is computed as a convolution with the flipped kernel."""
    one_output_each = kernel[-1] == geometry.groups
    unstrided = all(s == 1 for s in geometry.strides)
    return math.prod(kernel[:-2]) >= _MIN_SLICED_ELEMENTS and unstrided and one_output_each


def _flipped_image_gradient(
    x: jax.Array, kernel: jax.Array, ct: jax.Array, geometry: Geometry
) -> jax.Array:
    # At stride 1 it is a convolution again, of the cotangent with the flipped kernel.
    axes = tuple(range(len(geometry.strides)))
    extents = [d * (k - 1) for k, d in zip(kernel.shape, geometry.dilation, strict=False)]
    sides = zip(extents, geometry.padding, strict=True)
    padding = tuple((extent - low, extent - high) for extent, (low, high) in sides)
    return shifted(ct, lax.rev(kernel, axes), geometry._replace(padding=padding))


def _shifted_kernel_gradient(
    x: jax.Array, kernel: jax.Array, ct: jax.Array, geometry: Geometry
) -> jax.Array:
    """Image by image and offset by offset, so that each product and its sum stay in the cache."""
    wide, channels = at_least_float32(x.dtype), ct.shape[-1]
    kernel_size, pixels = kernel.shape[:-2], math.prod(ct.shape[1:-1])
    offsets = np.array(list(itertools.product(*map(range, kernel_size), (0,))))
    starts = offsets * (*geometry.dilation, 1)
    sides = zip(ct.shape[1:-1], geometry.strides, strict=True)
    extents = [(count - 1) * stride + 1 for count, stride in sides]

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def add_image(
        total: jax.Array, x_and_ct: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        image, image_ct = (a.astype(wide) for a in x_and_ct)
        image = lax.squeeze(pad_image(lax.expand_dims(image, (0,)), geometry), (0,))

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def of_offset(start: jax.Array) -> jax.Array:
            part = lax.dynamic_slice(image, start, (*extents, image.shape[-1]))
            part = lax.slice(part, (0,) * part.ndim, part.shape, (*geometry.strides, 1))
            products = lax.mul(_repeat_channels(part, channels), image_ct)
            # The sum as a product with ones: XLA for CPU would first copy each part that it sums
            # (47 ms became 15 to 22 for 7x7 kernels on (8, 56, 56, 96)). Two rows of ones, because
            # the product with a single row becomes a loop of strided reads (137 ms).
            rows = products.reshape(pixels, channels)
            sums = lax.dot(lax.full((2, pixels), 1, wide), rows)
            return lax.index_in_dim(sums, 0, keepdims=False)

        return lax.add(total, lax.map(of_offset, jnp.asarray(starts, jnp.int32))), None

    # Made of the cotangent, so that it is sharded over devices as the batch is: scan insists on it.
    zeros = jnp.zeros_like(ct[(0,) * (ct.ndim - 1)], wide)
    total, _ = lax.scan(add_image, jnp.stack([zeros] * len(starts)), (x, ct))
    return total.reshape(kernel.shape).astype(kernel.dtype)


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
    value = {
        "direct": direct,
        "matmul": matmul,
        "patches": patches,
        "shifted": shifted,
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
    small_output = is_small(output_sizes(image[1:-1], kernel, geometry), kernel)
    if method == "shifted":
        image_gradient = functools.partial(_flipped_image_gradient, geometry=geometry)
        return BilinearRule(
            run,
            vjp_lhs=image_gradient if _flips(kernel, geometry) else None,
            vjp_rhs=functools.partial(_shifted_kernel_gradient, geometry=geometry),
        )
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
