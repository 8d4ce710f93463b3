"""Unfold: the patches of an image, one for each place of a window."""

from __future__ import annotations

import jax

from ...base import arguments
from ...base.arguments import CausalPadding, Sizes
from ...base.constructors import no_params
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Params
from ...core.padding import Amounts, amounts_of
from ...core.patches import unfold
from ...core.time_windows import TimeWindow
from .base import IMAGE, NO_CHANNELS, Image, WindowedOp, spread_padding, window_fits, windowed_layer
from .convolution import ConvOptions


@factory
def Unfold(
    window_shape: Sizes,
    *,
    strides: Sizes = 1,
    padding: CausalPadding = "VALID",
    dilation: Sizes = 1,
) -> Layer:
    """The pixels of each window side by side, as channels (im2col), in 1-D, 2-D, 3-D and up.

    Args:
      window_shape, strides, dilation: an int for all spatial axes, or one for each.
      padding: as for ``Conv``, of zeros.

    Shapes:
      x: (batch, *spatial, channels). y: (batch, *spatial', channels * elements), of the dtype of
      ``x``. Of each channel all elements of the window, in row-major order, as in PyTorch, which
      has the spatial axes as one and behind.

    Raises:
      LayerError: for an input of another rank, and a window larger than the padded input.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.arange(4.0).reshape(1, 4, 1)
    >>> jl.Unfold(2).apply({}, {}, x)[0].tolist()
    [[[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]]
    """

    def placed(x: Image) -> tuple[tuple[int, ...], ConvOptions, Amounts, TimeWindow]:
        size, options = place(window_shape, strides, dilation, x)
        own = spread_padding(padding, len(size))
        arguments.not_empty(x, IMAGE)
        window_fits(x, x.shape[1:-1], options.extents, own, "the dilated window")
        pads = amounts_of(x.shape[1:-1], options.extents, options.strides, own)
        same = own[0] in ("SAME", "SAME_LOWER")
        window = TimeWindow(options.extents[0], options.strides[0], *pads[0], same)
        return size, options, pads, window

    def run(params: Params, x: jax.Array, mask: jax.Array | None, has_context: bool) -> jax.Array:
        size, options, pads, _ = placed(x)
        if has_context:
            pads = ((0, 0), *pads[1:])
        return unfold(x, size, options.strides, pads, options.dilation)

    return windowed_layer(no_params, WindowedOp(lambda x: placed(x)[-1], run))


def place(
    window_shape: Sizes, strides: Sizes, dilation: Sizes, x: Image, name: str = "window_shape"
) -> tuple[tuple[int, ...], ConvOptions]:
    """The window for the spatial axes of ``x``; ``name`` is that of its first argument."""
    fixed_rank = len(window_shape) + 2 if isinstance(window_shape, tuple) else None
    arguments.one_array(x, IMAGE, rank=fixed_rank, least_rank=3, lower=NO_CHANNELS)
    rank = len(x.shape) - 2
    size = arguments.spread(name, window_shape, rank)
    steps = arguments.spread("dilation", dilation, rank)
    extents = tuple(d * (k - 1) + 1 for k, d in zip(size, steps, strict=True))
    return size, ConvOptions(extents, arguments.spread("strides", strides, rank), steps)
