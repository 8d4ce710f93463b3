"""What Conv and ConvTranspose share: arguments, parameters, and how a kernel lies on an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from ... import core
from ...base import arguments
from ...base.errors import LayerError
from ...base.layer import Layer
from ...base.parameters import Initializer, cast_like, initialize
from ...base.specs import Params, format_spec
from ..windowed import Windowed, windowed

Sizes = int | tuple[int, ...]
Pads = str | tuple[tuple[int, int], ...]
Fits = Callable[[jax.ShapeDtypeStruct, Sequence[int], Sequence[int], Pads], None]

IMAGE = "(batch, *spatial, channels)"
NO_CHANNELS = "x[..., None] for images without a channel axis, x[None] for a single image"


def convolution(
    run: Callable[..., jax.Array],
    fits: Fits,
    over_time: Callable[..., Any],
    features: int,
    kernel_size: Sizes,
    *,
    strides: Sizes,
    padding: arguments.Padding,
    dilation: Sizes,
    groups: int,
    bias: bool,
    kernel_init: Initializer,
    bias_init: Initializer,
    method: str | None,
    causal: bool = False,
) -> Layer:
    """The pair of a convolution, of which ``Conv`` and ``ConvTranspose`` are the two kinds.

    Args:
      run: ``core.conv`` or ``core.conv_transpose``.
      fits: raises where the dilated kernel is too large: ``fits(x, dilated, strides, padding)``.
      over_time: ``over_time(x, extents, options)``, the window along the first spatial axis, for
        the extents of the dilated kernel.
      causal: whether ``"CAUSAL"`` is a padding; the rest are the layers' own arguments.
    """
    features = arguments.positive("features", features)
    kernel_size = arguments.positive_sizes("kernel_size", kernel_size)
    strides = arguments.positive_sizes("strides", strides)
    dilation = arguments.positive_sizes("dilation", dilation)
    padding = arguments.padding_argument(padding, causal)
    groups = arguments.positive("groups", groups)
    bias = arguments.flag("bias", bias)
    _divides(groups, features, "features")

    def options(rank: int) -> dict[str, Any]:
        return {
            "strides": arguments.spread("strides", strides, rank),
            "padding": arguments.spread_padding(padding, rank),
            "dilation": arguments.spread("dilation", dilation, rank),
        }

    def extents(rank: int) -> list[int]:
        sizes = arguments.spread("kernel_size", kernel_size, rank)
        dilations = arguments.spread("dilation", dilation, rank)
        return [d * (k - 1) + 1 for k, d in zip(sizes, dilations, strict=True)]

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        rank = len(kernel_size) + 2 if isinstance(kernel_size, tuple) else None
        arguments.one_array(x, IMAGE, rank=rank, least_rank=3, lower=NO_CHANNELS)
        arguments.floating(x)
        arguments.has_features(x, IMAGE)
        size = arguments.spread("kernel_size", kernel_size, len(x.shape) - 2)
        if padding == "CAUSAL" and len(size) != 1:
            raise LayerError("padding 'CAUSAL' is for (batch, time, channels)", got=format_spec(x))
        _divides(groups, x.shape[-1], "channels of the input")
        how = options(len(size))
        fits(x, extents(len(size)), how["strides"], how["padding"])
        return initialize(
            key,
            x,
            kernel=(kernel_init, (*size, x.shape[-1] // groups, features)),
            bias=(bias_init, (features,)) if bias else None,
        )

    def apply(params: Params, x: jax.Array, mask: Any, within: bool) -> jax.Array:
        how = options(x.ndim - 2)
        if within:
            pads = core.explicit_padding(x, extents(x.ndim - 2), how["strides"], how["padding"])
            how["padding"] = ((0, 0), *pads[1:])
        return run(x, **cast_like(params, x), **how, groups=groups, method=method)

    def window(x: Any) -> Any:
        rank = len(x.shape) - 2
        return over_time(x, extents(rank), options(rank))

    return windowed(init, Windowed(window, apply))


def _divides(groups: int, channels: int, what: str) -> None:
    if channels % groups:
        raise LayerError(f"groups {groups} do not divide the {channels} {what}")
