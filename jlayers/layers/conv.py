"""Conv: convolution of any rank, channels last."""

from __future__ import annotations

import jax
from jax.nn import initializers

from .. import checks, core
from ..errors import LayerError
from ..factory import factory
from ..layer import Layer
from ..lifting import stateless
from ..parameters import Initializer, cast_like, initialize
from ..specs import Params, show

Sizes = int | tuple[int, ...]
NO_CHANNELS = "x[..., None] for images without a channel axis, x[None] for a single image"


@factory
def Conv(
    features: int,
    kernel_size: Sizes,
    *,
    strides: Sizes = 1,
    padding: checks.Padding = "VALID",
    dilation: Sizes = 1,
    groups: int = 1,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Convolution (cross-correlation, as everywhere in the field) in 1-D, 2-D, 3-D and up.

    The rank is the input's. ``groups`` equal to the input's channels is a depthwise convolution.

    Args:
      features: channels of the output.
      kernel_size, strides, dilation: an int for all spatial axes, or one for each.
      padding: ``"VALID"`` (none), ``"SAME"`` (output of size ceil(input / stride)), ``"CAUSAL"``
        (1-D: an output sees no later step), an int, or a (low, high) for each spatial axis.
      groups: both channel counts are split into as many groups, each convolved on its own.
      bias: whether there is one.
      kernel_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, *spatial, in), floating. y: (batch, *spatial', features), of the dtype of ``x``.
      params: kernel (*kernel_size, in / groups, features), bias (features,).

    Raises:
      LayerError: for an input of another rank, channels that the groups do not divide, and a
        kernel larger than the padded input.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.Conv(32, 3, strides=2, padding="SAME"), jl.spec((8, 28, 28, 1))).shape
    (8, 14, 14, 32)
    """
    features = checks.positive("features", features)
    kernel_size = checks.positive_sizes("kernel_size", kernel_size)
    strides = checks.positive_sizes("strides", strides)
    dilation = checks.positive_sizes("dilation", dilation)
    padding = checks.padding_argument(padding, causal=True)
    groups = checks.positive("groups", groups)
    bias = checks.flag("bias", bias)
    check_groups(groups, features, "features")

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        size = check_image(x, kernel_size)
        rank = len(size)
        if padding == "CAUSAL" and rank != 1:
            raise LayerError("padding 'CAUSAL' is for (batch, time, channels)", got=show(x))
        check_groups(groups, x.shape[-1], "channels of the input")
        dilated = [d * (k - 1) + 1 for k, d in zip(size, spread_dilation(rank), strict=True)]
        checks.spread("strides", strides, rank)
        pads = checks.spread_padding(padding, rank)
        checks.window_fits(x, x.shape[1:-1], dilated, pads, "the dilated kernel")
        return initialize(
            key,
            x,
            kernel=(kernel_init, (*size, x.shape[-1] // groups, features)),
            bias=(bias_init, (features,)) if bias else None,
        )

    def spread_dilation(rank: int) -> tuple[int, ...]:
        return checks.spread("dilation", dilation, rank)

    def apply(params: Params, x: jax.Array) -> jax.Array:
        rank = x.ndim - 2
        return core.conv(
            x,
            **cast_like(params, x),
            strides=checks.spread("strides", strides, rank),
            padding=checks.spread_padding(padding, rank),
            dilation=spread_dilation(rank),
            groups=groups,
        )

    return stateless(init, apply)


def check_image(x: jax.ShapeDtypeStruct, kernel_size: Sizes) -> tuple[int, ...]:
    """The input is one image batch of the kernel's rank; gives the kernel's size on each axis."""
    shape = "(batch, *spatial, channels)"
    rank = len(kernel_size) + 2 if isinstance(kernel_size, tuple) else None
    checks.one_array(x, shape, rank=rank, least_rank=3, lower=NO_CHANNELS)
    checks.floating(x)
    checks.has_features(x, shape)
    return checks.spread("kernel_size", kernel_size, len(x.shape) - 2)


def check_groups(groups: int, channels: int, what: str) -> None:
    """``groups`` divides ``channels``."""
    if channels % groups:
        raise LayerError(f"groups {groups} do not divide the {channels} {what}")
