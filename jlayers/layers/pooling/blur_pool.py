"""BlurPool: strides over a blurred image."""

from __future__ import annotations

import jax

from ... import core
from ...base import arguments
from ...base.arguments import ConvPadding, Sizes
from ...base.constructors import no_params
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Params
from ...core.padding import Amounts, amounts_of, apart, extend, extend_rows, modes_of
from ...core.time_windows import TimeWindow
from ..conv.base import (
    IMAGE,
    NO_CHANNELS,
    Image,
    WindowedOp,
    spread_padding,
    window_fits,
    windowed_layer,
)


@factory
def BlurPool(
    window_shape: Sizes = 3, *, strides: Sizes = 2, padding: ConvPadding = "REFLECT"
) -> Layer:
    """The image blurred by a binomial filter, and then every ``strides``-th pixel of it.

    Before strides it keeps what is finer than they are from turning up as something else (Zhang,
    2019, arXiv:1904.11486). His max pool without aliasing is ``serial(MaxPool(2, strides=1),
    BlurPool())``, his strided convolution ``serial(Conv(features, 3), jax.nn.relu, BlurPool())``.

    Args:
      window_shape: of the filter, an int for all spatial axes, or one for each: 2 is a mean, 3
        weighs (1, 2, 1), 5 (1, 4, 6, 4, 1).
      strides: likewise.
      padding: as for ``Conv``; by default the image is reflected, as in the paper.

    Shapes:
      x: (batch, *spatial, channels), floating. y: (batch, *spatial', channels), of the dtype of
      ``x``; sums are taken in float32 at least.

    Raises:
      LayerError: for an input of another rank or with an empty axis, and a window larger than the
        padded input.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([4.0, 0.0, 8.0, 0.0]).reshape(1, 4, 1)
    >>> jl.BlurPool().apply({}, {}, x)[0].ravel().tolist()
    [2.0, 4.0]
    """

    def place(x: Image) -> tuple[tuple[int, ...], tuple[int, ...], Amounts, tuple[str, ...]]:
        rank = len(x.shape) - 2
        size = arguments.spread("window_shape", window_shape, rank)
        steps = arguments.spread("strides", strides, rank)
        own = spread_padding(padding, rank)
        window_fits(x, x.shape[1:-1], size, own, "the window")
        return size, steps, amounts_of(x.shape[1:-1], size, steps, own), modes_of(own, rank)

    def time_window(x: Image) -> TimeWindow:
        size, steps, pads, modes = place(x)
        same = spread_padding(padding, len(size))[0] in ("SAME", "SAME_LOWER")
        return TimeWindow(size[0], steps[0], *pads[0], same, modes[0])

    def run(params: Params, x: jax.Array, mask: jax.Array | None, has_context: bool) -> jax.Array:
        rank = len(window_shape) + 2 if isinstance(window_shape, tuple) else None
        arguments.one_array(x, IMAGE, rank=rank, least_rank=3, lower=NO_CHANNELS)
        arguments.floating(x)
        arguments.real(x)
        arguments.not_empty(x, IMAGE)
        size, steps, pads, modes = place(x)
        around, zeros = apart(pads, modes)
        if has_context:
            around, zeros = ((0, 0), *around[1:]), ((0, 0), *zeros[1:])
        # Each row by itself, or the end of the array would be taken for that of the row.
        elif mask is not None and any(around[0]):
            x = extend_rows(x, mask, around[0], modes[0])
            around = ((0, 0), *around[1:])
        x = extend(x, around, modes)
        return core.blur_pool(x, window_shape=size, strides=steps, padding=zeros)

    return windowed_layer(no_params, WindowedOp(time_window, run))
