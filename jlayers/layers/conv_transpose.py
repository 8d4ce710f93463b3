"""ConvTranspose: fractionally strided convolution, for upsampling."""

from __future__ import annotations

from typing import Any

import jax
from jax.nn import initializers

from .. import checks, core
from ..factory import factory
from ..layer import Layer
from ..lifting import stateless
from ..parameters import Initializer, cast_like, initialize
from ..specs import Params
from .conv import Sizes, check_groups, check_image


@factory
def ConvTranspose(
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
    """``lax.conv_transpose`` in 1-D, 2-D, 3-D and up (Dumoulin & Visin, 2016, arXiv:1603.07285).

    The kernel is used as it stands, (in, out) last and not flipped: the same weights in Keras and
    PyTorch are this kernel flipped along every spatial axis.

    Args:
      features: channels of the output.
      kernel_size, strides, dilation: an int for all spatial axes, or one for each.
      padding: ``"SAME"`` for an output of size input * stride; ``"VALID"`` for input * stride +
        max(kernel - stride, 0); an int or a (low, high) for each axis pads the input after it
        has been spread out.
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
    >>> up = jl.ConvTranspose(16, 4, strides=2, padding="SAME")
    >>> jl.out_spec(up, jl.spec((8, 7, 7, 32))).shape
    (8, 14, 14, 16)
    """
    features = checks.positive("features", features)
    kernel_size = checks.positive_sizes("kernel_size", kernel_size)
    strides = checks.positive_sizes("strides", strides)
    dilation = checks.positive_sizes("dilation", dilation)
    padding = checks.padding_argument(padding)
    groups = checks.positive("groups", groups)
    bias = checks.flag("bias", bias)
    check_groups(groups, features, "features")

    def options(rank: int) -> dict[str, Any]:
        return {
            "strides": checks.spread("strides", strides, rank),
            "padding": checks.spread_padding(padding, rank),
            "dilation": checks.spread("dilation", dilation, rank),
        }

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        size = check_image(x, kernel_size)
        how = options(len(size))
        if not isinstance(padding, str):
            spread = [s * (n - 1) + 1 for n, s in zip(x.shape[1:-1], how["strides"], strict=True)]
            dilated = [d * (k - 1) + 1 for k, d in zip(size, how["dilation"], strict=True)]
            checks.window_fits(x, spread, dilated, how["padding"], "the dilated kernel")
        check_groups(groups, x.shape[-1], "channels of the input")
        return initialize(
            key,
            x,
            kernel=(kernel_init, (*size, x.shape[-1] // groups, features)),
            bias=(bias_init, (features,)) if bias else None,
        )

    def apply(params: Params, x: jax.Array) -> jax.Array:
        return core.conv_transpose(x, **cast_like(params, x), **options(x.ndim - 2), groups=groups)

    return stateless(init, apply)
