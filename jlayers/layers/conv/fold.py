"""Fold: an image from its patches."""

from __future__ import annotations

import math

import jax

from ...base import arguments
from ...base.arguments import EdgeSizes, Sizes
from ...base.constructors import no_params
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.specs import format_spec
from ...base.types import Params
from ...core.padding import Amounts, amounts_of
from ...core.patches import fold
from ...core.time_windows import TransposedTimeWindow
from .base import IMAGE, Image, WindowedOp, spread_padding, windowed_layer
from .convolution import ConvOptions
from .unfold import place


@factory
def Fold(
    window_shape: Sizes,
    *,
    sizes: Sizes | None = None,
    strides: Sizes = 1,
    cropping: EdgeSizes = 0,
    dilation: Sizes = 1,
) -> Layer:
    """The sum of all patches at their places (col2im, overlap-add), the transpose of ``Unfold``.

    Args:
      window_shape, strides, dilation: those of ``Unfold``, an int for all spatial axes, or one for
        each.
      sizes: those of the image; by default what the patches cover.
      cropping: the explicit padding of ``Unfold``, which is cut off here; an int, or one or a (low,
        high) for each axis.

    Shapes:
      x: (batch, *blocks, channels * elements), of each channel all elements of the window.
      y: (batch, *spatial, channels), of the dtype of ``x``.

    Raises:
      LayerError: for an input of another rank, channels that the elements of a window do not
        divide, an empty axis, and sizes of another number of patches.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> patches = jnp.array([[[0.0, 1.0], [10.0, 20.0], [0.0, 0.0]]])
    >>> jl.Fold(2).apply({}, {}, patches)[0].ravel().tolist()
    [0.0, 11.0, 20.0, 0.0]
    """

    def placed(x: Image) -> tuple[tuple[int, ...], ConvOptions, Amounts]:
        size, options = place(window_shape, strides, dilation, x)
        arguments.not_empty(x, IMAGE)
        if x.shape[-1] % math.prod(size):
            raise LayerError(
                f"the {x.shape[-1]} channels are not a multiple of the {math.prod(size)} elements "
                f"of a window {size}",
                got=format_spec(x),
            )
        extents, steps, _ = options
        crop = amounts_of(extents, extents, steps, spread_padding(cropping, len(size)))
        pads = tuple(
            (e - 1 - low, e - 1 - high) for e, (low, high) in zip(extents, crop, strict=True)
        )
        if sizes is None:
            return size, options, pads
        wanted = arguments.spread("sizes", sizes, len(size))
        blocks = [
            (n + low + high - e) // s + 1
            for n, (low, high), e, s in zip(wanted, crop, extents, steps, strict=True)
        ]
        if any(isinstance(n, int) and n != m for n, m in zip(x.shape[1:-1], blocks, strict=True)):
            raise LayerError(
                f"an image of sizes {wanted} has {tuple(blocks)} patches", got=format_spec(x)
            )
        covered = [(n - 1) * s + 1 for n, s in zip(blocks, steps, strict=True)]
        ends = zip(wanted, covered, extents, pads, strict=True)
        return size, options, tuple((low, n - m + e - 1 - low) for n, m, e, (low, _) in ends)

    def run(params: Params, x: jax.Array, mask: jax.Array | None, has_context: bool) -> jax.Array:
        size, options, pads = placed(x)
        if has_context:
            pads = (window(x).padding_after_context, *pads[1:])
        return fold(x, size, options.strides, pads, options.dilation)

    def window(x: Image) -> TransposedTimeWindow:
        _, options, pads = placed(x)
        return TransposedTimeWindow(options.extents[0], options.strides[0], *pads[0])

    return windowed_layer(no_params, WindowedOp(window, run))
