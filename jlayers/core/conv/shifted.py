"""Convolutions of one channel a group, as sums of shifted images, each times a number a channel.

XLA for CPU runs grouped convolutions one group at a time: this is about 20 times faster.

How to read this file: ``shifted_rule`` names the programs. ``_value`` is the convolution,
``_image_gradient`` that of large kernels, and ``_in_loops`` has the gradient of the kernel as its
transpose. The measurements are in docs/notes/0009-compiled-cores.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..custom_gradient import BilinearRule
from ..dtypes import at_least_float32
from .geometry import Geometry, one_window, output_sizes, pad_image, slices

# With fewer kernel elements, sums of padded arrays, fused in one loop, beat slices of a padded
# copy.
_MIN_SLICED_ELEMENTS = 16
# A single output of at least as many is a product with ones: 1.2 to 1.7x as fast for 257.
_MIN_SUMMED_ELEMENTS = 64


def shifted_rule(kernel: Sequence[int], geometry: Geometry) -> BilinearRule:
    """The programs of the method ``shifted`` for a kernel of this shape."""
    flips = functools.partial(_image_gradient, geometry=geometry)
    return BilinearRule(
        functools.partial(_value, geometry=geometry),
        vjp_lhs=flips if _flips(kernel, geometry) else None,
        for_rhs=functools.partial(_in_loops, geometry=geometry),
    )


def _flips(kernel: Sequence[int], geometry: Geometry) -> bool:
    """Whether the image's gradient is computed as a convolution with the flipped kernel."""
    one_output_each = kernel[-1] == geometry.groups
    unstrided = all(s == 1 for s in geometry.strides)
    return math.prod(kernel[:-2]) >= _MIN_SLICED_ELEMENTS and unstrided and one_output_each


def _value(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    wide, features = at_least_float32(x.dtype), kernel.shape[-1]
    elements = math.prod(kernel.shape[:-2])
    if elements >= _MIN_SUMMED_ELEMENTS and set(
        output_sizes(x.shape[1:-1], kernel.shape, geometry)
    ) == {1}:
        window = one_window(pad_image(x, geometry), kernel, geometry).astype(wide)
        window = _repeat_channels(window, features)
        weights = kernel.reshape(1, elements, features).astype(wide)
        products = lax.mul(window, weights)
        # Two rows of ones, as in the gradient of the kernel.
        sums = jnp.einsum("jk,bkf->jbf", jnp.ones((2, elements), wide), products)[0]
        return sums.astype(x.dtype).reshape(x.shape[0], *(1 for _ in geometry.strides), features)
    total = None
    parts = zip(_elements(x, kernel), slices(x, kernel, geometry), strict=True)
    for weight, (_, image) in parts:
        image = lax.convert_element_type(image, weight.dtype)
        term = lax.mul(_repeat_channels(image, kernel.shape[-1]), weight)
        total = term if total is None else lax.add(total, term)
    assert total is not None
    return lax.convert_element_type(total, x.dtype)


def _elements(x: jax.Array, kernel: jax.Array) -> Sequence[jax.Array]:
    """For each offset the numbers for each channel: (1, ..., 1, features), of the rank of ``x``."""
    # Split at once, and repeated by the products themselves: an equation for each element is
    # traced, differentiated and transposed as often as there are elements.
    count = math.prod(kernel.shape[:-2])
    shape = (count, *(1 for _ in kernel.shape[:-2]), kernel.shape[-1])
    kernel = lax.convert_element_type(kernel, at_least_float32(x.dtype))
    return lax.split(lax.reshape(kernel, shape), (1,) * count)


def _repeat_channels(image: jax.Array, features: int) -> jax.Array:
    """(..., C) to (..., features), with each channel as often as need be, side by side."""
    multiplier = features // image.shape[-1]
    if multiplier == 1:
        return image
    shape = (*image.shape, multiplier)
    image = lax.broadcast_in_dim(image, shape, range(image.ndim))
    return image.reshape(*shape[:-2], features)


def _image_gradient(
    x: jax.Array, kernel: jax.Array, ct: jax.Array, geometry: Geometry
) -> jax.Array:
    # At stride 1 it is a convolution again, of the cotangent with the flipped kernel.
    axes = tuple(range(len(geometry.strides)))
    extents = [d * (k - 1) for k, d in zip(kernel.shape, geometry.dilation, strict=False)]
    sides = zip(extents, geometry.padding, strict=True)
    padding = tuple((extent - low, extent - high) for extent, (low, high) in sides)
    return _value(ct, lax.rev(kernel, axes), geometry._replace(padding=padding))


def _in_loops(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The same values, as the transpose of a fast gradient of the kernel.

    Image by image and offset by offset, so that each product and its sum stay in the cache.
    """
    wide, features = at_least_float32(x.dtype), kernel.shape[-1]
    kernel_size, count = kernel.shape[:-2], math.prod(kernel.shape[:-2])
    out_shape = output_sizes(x.shape[1:-1], kernel.shape, geometry)
    pixels = math.prod(out_shape)
    sides = zip(out_shape, geometry.strides, strict=True)
    extents = [(outputs - 1) * stride + 1 for outputs, stride in sides]

    # Rematerialised, both: a loop would store what depends on the image alone.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_image(image: jax.Array, weights: jax.Array) -> jax.Array:
        image = lax.expand_dims(lax.convert_element_type(image, wide), (0,))
        image = lax.squeeze(pad_image(image, geometry), (0,))

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def of_offset(total: jax.Array, weight: jax.Array, offset: list[jax.Array]) -> jax.Array:
            starts: list[jax.Array | np.int32] = [*offset, np.int32(0)]
            shape = (*extents, image.shape[-1])
            part = lax.dynamic_slice(image, starts, shape, allow_negative_indices=False)
            if max(geometry.strides) > 1:
                part = lax.slice(part, (0,) * part.ndim, part.shape, (*geometry.strides, 1))
            # Backwards, the sum of all pixels as a product with ones: XLA for CPU would first copy
            # each part that it sums (47 ms became 15 to 22 for 7x7 kernels on (8, 56, 56, 96)). Two
            # rows, because the product with one becomes a loop of strided reads (137 ms).
            rows = lax.broadcast_in_dim(weight, (2, features), (1,))
            halves = lax.full((2, pixels), 0.5, wide)
            spread = lax.dot_general(halves, rows, (((0,), (0,)), ((), ())))
            spread = lax.reshape(spread, (*out_shape, features))
            return lax.add(total, lax.mul(_repeat_channels(part, features), spread))

        # Made of the image, so that it varies over devices as the batch does: scan insists on it.
        total = lax.full_like(image, 0, shape=(*out_shape, features))
        total, _ = lax.scan(
            lambda total, each: (of_offset(total, *each), None), total, (weights, offsets)
        )
        return total

    offsets = [
        lax.reshape(lax.broadcasted_iota(np.int32, kernel_size, axis), (count,))
        for axis in range(len(kernel_size))
    ]
    offsets = [
        offset if dilation == 1 else lax.mul(offset, np.int32(dilation))
        for offset, dilation in zip(offsets, geometry.dilation, strict=True)
    ]
    weights = lax.reshape(lax.convert_element_type(kernel, wide), (count, features))
    total = lax.map(lambda image: of_image(image, weights), x)
    return lax.convert_element_type(total, x.dtype)
