"""What Conv and ConvTranspose share: arguments, parameters, and how a kernel lies on an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from .. import checks
from ..errors import LayerError
from ..layer import Layer
from ..lifting import stateless
from ..parameters import Initializer, cast_like, initialize
from ..specs import Params, show

Sizes = int | tuple[int, ...]
Pads = str | tuple[tuple[int, int], ...]
Fits = Callable[[jax.ShapeDtypeStruct, Sequence[int], Sequence[int], Pads], None]

IMAGE = "(batch, *spatial, channels)"
NO_CHANNELS = "x[..., None] for images without a channel axis, x[None] for a single image"


def convolution(
    run: Callable[..., jax.Array],
    fits: Fits,
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
        dilated = [d * (k - 1) + 1 for k, d in zip(size, how["dilation"], strict=True)]
        fits(x, dilated, how["strides"], how["padding"])
        return initialize(
            key,
            x,
            kernel=(kernel_init, (*size, x.shape[-1] // groups, features)),
            bias=(bias_init, (features,)) if bias else None,
        )

    def apply(params: Params, x: jax.Array) -> jax.Array:
        how = options(x.ndim - 2)
        return run(x, **cast_like(params, x), **how, groups=groups, method=method)

    return stateless(init, apply)


def _divides(groups: int, channels: int, what: str) -> None:
    if channels % groups:
        raise LayerError(f"groups {groups} do not divide the {channels} {what}")
