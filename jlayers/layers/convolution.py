"""What Conv and ConvTranspose share: arguments, parameters, and how a kernel lies on an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from .. import checks, core
from ..errors import LayerError
from ..layer import Layer
from ..parameters import Initializer, cast_like, initialize
from ..specs import Params, show
from .windowed import Windowed, windowed

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
    padding: checks.Padding,
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
    features = checks.positive("features", features)
    kernel_size = checks.positive_sizes("kernel_size", kernel_size)
    strides = checks.positive_sizes("strides", strides)
    dilation = checks.positive_sizes("dilation", dilation)
    padding = checks.padding_argument(padding, causal)
    groups = checks.positive("groups", groups)
    bias = checks.flag("bias", bias)
    _divides(groups, features, "features")

    def options(rank: int) -> dict[str, Any]:
        return {
            "strides": checks.spread("strides", strides, rank),
            "padding": checks.spread_padding(padding, rank),
            "dilation": checks.spread("dilation", dilation, rank),
        }

    def extents(rank: int) -> list[int]:
        sizes = checks.spread("kernel_size", kernel_size, rank)
        dilations = checks.spread("dilation", dilation, rank)
        return [d * (k - 1) + 1 for k, d in zip(sizes, dilations, strict=True)]

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        rank = len(kernel_size) + 2 if isinstance(kernel_size, tuple) else None
        checks.one_array(x, IMAGE, rank=rank, least_rank=3, lower=NO_CHANNELS)
        checks.floating(x)
        checks.has_features(x, IMAGE)
        size = checks.spread("kernel_size", kernel_size, len(x.shape) - 2)
        if padding == "CAUSAL" and len(size) != 1:
            raise LayerError("padding 'CAUSAL' is for (batch, time, channels)", got=show(x))
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
