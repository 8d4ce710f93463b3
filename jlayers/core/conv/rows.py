"""Dense convolutions in forms that XLA for CPU computes well, inside loops too.

XLA for CPU gives most 2-D convolutions to YNNPACK, where Eigen takes 0.5 to 1 times as long. And it
orders the axes of a convolution as its libraries need them outside of loops alone: inside one (a
scan over training steps, a ``repeat``) the gradients that JAX derives run without any library, 50
times as long for the kernel's and 4 times for the image's. The tables are in
docs/notes/0009-compiled-cores.md.

How to read this file: ``rows_rule`` names the programs, which follow in its order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ..custom_gradient import BilinearRule
from ..dtypes import at_least_float32, is_symbolic
from ..windows import pad_or_crop
from .geometry import Geometry, channels_last, direct

# With so few channels of the output Eigen's product is slow, and with so few on both sides YNNPACK
# takes no convolution.
_MAX_FEW_CHANNELS = 16
# One output in so many may be computed for nothing.
_MIN_OUTPUTS_PER_SPARE = 14
# Rows of pixels in the gradient of the kernel: in an image, in all, and at a time. Few enough for
# the cache, enough for a good product.
_MIN_HEIGHT = 16
_MIN_ROWS = 96
_MIN_ROWS_AT_A_TIME = 48
# A product for each row of the kernel: of 5 rows and more, many small ones, which lose half where
# other processes take the cores.
_MAX_KERNEL_HEIGHT = 3


def rows_rule(geometry: Geometry) -> BilinearRule:
    """The programs of the method ``rows``; narrower floats are computed in float32."""

    def wide(program: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        def run(*args: jax.Array) -> jax.Array:
            dtype = args[0].dtype
            return program(*(a.astype(at_least_float32(dtype)) for a in args), geometry).astype(
                dtype
            )

        return run

    return BilinearRule(wide(_value), vjp_lhs=wide(_image_gradient), vjp_rhs=wide(_kernel_gradient))


def takes_rows(x: Sequence[int], kernel: Sequence[int], geometry: Geometry) -> bool:
    """Whether ``rows`` computes it: dense, 1-D or 2-D, and each window meets the image."""
    if len(x) not in (3, 4) or geometry.groups > 1 or is_symbolic(*x[1:]) or 0 in kernel:
        return False
    axes = zip(x[1:-1], kernel, geometry.padding, geometry.dilation, strict=False)
    return 0 not in x and all(
        0 <= low <= d * (k - 1) and 0 <= high <= d * (k - 1) < n + low + high
        for n, k, (low, high), d in axes
    )


def _value(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """XLA's convolution, with more outputs than inputs where few to spare make it so.

    YNNPACK takes no such convolution.
    """
    axis, spare = _spare_outputs(x.shape, kernel.shape, geometry)
    if spare == 0:
        return direct(x, kernel, geometry)
    low, high = geometry.padding[axis]
    padding = list(geometry.padding)
    padding[axis] = (low, high + spare)
    y = lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=channels_last(2),
    )
    return lax.slice_in_dim(y, 0, y.shape[1 + axis] - spare, axis=1 + axis)


def _spare_outputs(x: Sequence[int], kernel: Sequence[int], geometry: Geometry) -> tuple[int, int]:
    """(axis, how many) more outputs exceed the input along it; none where they do not pay off."""
    if len(x) != 4 or kernel[-1] <= _MAX_FEW_CHANNELS:
        return 0, 0
    choices = []
    axes = zip(x[1:-1], kernel, *geometry[:3], strict=False)
    for axis, (n, k, stride, (low, high), dilation) in enumerate(axes):
        spare = dilation * (k - 1) + 1 - low - high
        outputs = n + 1 - spare
        if stride == 1 and spare * _MIN_OUTPUTS_PER_SPARE <= outputs:
            choices.append((max(spare, 0) / outputs, axis, max(spare, 0)))
    return min(choices)[1:] if choices else (0, 0)


def _image_gradient(
    x: jax.Array, kernel: jax.Array, ct: jax.Array, geometry: Geometry
) -> jax.Array:
    """A convolution of the cotangent with the flipped kernel, its axes in the libraries' order."""
    rank = x.ndim - 2
    spatial = tuple(range(rank))
    kernel = lax.transpose(lax.rev(kernel, spatial), (*spatial, rank + 1, rank))
    padding = []
    axes = zip(x.shape[1:-1], ct.shape[1:-1], kernel.shape, *geometry[:3], strict=False)
    for n, outputs, k, stride, (low, _), dilation in axes:
        padding.append((dilation * (k - 1) - low, n - 1 - stride * (outputs - 1) + low))
    if set(geometry.strides) == {1}:
        return _value(ct, kernel, geometry._replace(padding=tuple(padding)))
    return lax.conv_general_dilated(
        ct,
        kernel,
        (1,) * rank,
        padding,
        lhs_dilation=geometry.strides,
        rhs_dilation=geometry.dilation,
        dimension_numbers=channels_last(rank),
    )


def _kernel_gradient(
    x: jax.Array, kernel: jax.Array, ct: jax.Array, geometry: Geometry
) -> jax.Array:
    ends = [
        stride * (outputs - 1) + dilation * (k - 1) + 1
        for outputs, k, stride, dilation in zip(
            ct.shape[1:-1], kernel.shape, geometry.strides, geometry.dilation, strict=False
        )
    ]
    # To the pixels that a window reads.
    edges = [
        (low, end - low - n)
        for n, end, (low, _) in zip(x.shape[1:-1], ends, geometry.padding, strict=True)
    ]
    batch, rows = ct.shape[:2]
    if x.ndim != 4 or is_symbolic(batch) or not _sums_over_rows(kernel.shape, batch, rows):
        return _sum_over_pixels(x, ct, edges, geometry)
    x = pad_or_crop(x, edges)
    (height, width, inputs, features) = kernel.shape
    sizes = (n for n in range(1, batch + 1) if batch % n == 0)
    images = next((n for n in sizes if n * rows >= _MIN_ROWS_AT_A_TIME), batch)
    if images == batch:
        total = _sum_over_rows(x, ct, height, geometry)
    else:

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def add_images(
            total: jax.Array, x_and_ct: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, None]:
            return lax.add(total, _sum_over_rows(*x_and_ct, height, geometry)), None

        parts = tuple(a.reshape(batch // images, images, *a.shape[1:]) for a in (x, ct))
        # Made of the cotangent, so that it varies over devices as the batch does.
        zeros = jnp.zeros_like(ct[(0,) * (ct.ndim - 1)])
        zeros = lax.broadcast_in_dim(zeros, (height * inputs, width, features), (2,))
        total, _ = lax.scan(add_images, zeros, parts)
    return lax.transpose(total.reshape(height, inputs, width, features), (0, 2, 1, 3))


def _sums_over_rows(kernel: Sequence[int], batch: int, rows: int) -> bool:
    return (
        kernel[0] <= _MAX_KERNEL_HEIGHT
        and kernel[-1] > _MAX_FEW_CHANNELS
        and rows >= _MIN_HEIGHT
        and batch * rows >= _MIN_ROWS
    )


def _sum_over_pixels(
    x: jax.Array, ct: jax.Array, edges: Sequence[tuple[int, int]], geometry: Geometry
) -> jax.Array:
    """One convolution, as JAX derives it, with its axes in the libraries' order."""
    rank = x.ndim - 2
    spatial = tuple(range(1, rank + 1))
    result = lax.conv_general_dilated(
        lax.transpose(x, (rank + 1, *spatial, 0)),
        lax.transpose(ct, (*spatial, 0, rank + 1)),
        geometry.dilation,
        edges,
        rhs_dilation=geometry.strides,
        dimension_numbers=channels_last(rank),
    )
    return lax.transpose(result, (*spatial, 0, rank + 1))


def _sum_over_rows(x: jax.Array, ct: jax.Array, height: int, geometry: Geometry) -> jax.Array:
    """A 1-D convolution for each row of the kernel, whose channels are the rows of all images.

    Returns:
      (height * in, width, out).
    """
    (stride, stride_along), (dilation, dilation_along) = geometry.strides, geometry.dilation
    batch, rows, along, features = ct.shape
    pixels = lax.transpose(x, (3, 2, 0, 1))
    ct = lax.transpose(ct, (2, 0, 1, 3)).reshape(along, batch * rows, features)

    def of_row(row: int) -> jax.Array:
        start = row * dilation
        stop = start + stride * (rows - 1) + 1
        images = lax.slice_in_dim(pixels, start, stop, stride, axis=3)
        return lax.conv_general_dilated(
            images.reshape(*images.shape[:2], batch * rows),
            ct,
            (dilation_along,),
            [(0, 0)],
            rhs_dilation=(stride_along,),
            dimension_numbers=("NHC", "HIO", "NHC"),
        )

    return lax.concatenate([of_row(row) for row in range(height)], 0)
