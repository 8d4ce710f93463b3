"""ConvTranspose: fractionally strided convolution, for upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import Initializer
from .base import Pads, Sizes, convolution


@factory
def ConvTranspose(
    features: int,
    kernel_size: Sizes,
    *,
    strides: Sizes = 1,
    padding: arguments.Padding = "VALID",
    dilation: Sizes = 1,
    groups: int = 1,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    method: str | None = None,
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
      method: the algorithm, for ``core.conv_transpose``; by default the fastest known where it
        runs. ``jl.explain`` shows which.

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
    return convolution(
        core.conv_transpose,
        _fits,
        _over_time,
        features,
        kernel_size,
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias,
        kernel_init=kernel_init,
        bias_init=bias_init,
        method=method,
    )


def _over_time(x: Any, extents: Sequence[int], how: dict[str, Any]) -> core.SpreadWindow:
    stride, padding = how["strides"][0], how["padding"]
    named = isinstance(padding, str)
    pads = core.transposed_padding(extents[0], stride, padding) if named else padding[0]
    return core.SpreadWindow(extents[0], stride, *pads)


def _fits(
    x: jax.ShapeDtypeStruct, dilated: Sequence[int], strides: Sequence[int], padding: Pads
) -> None:
    if not isinstance(padding, str):  # the named ones pad as much as the kernel needs
        spread = [s * (n - 1) + 1 for n, s in zip(x.shape[1:-1], strides, strict=True)]
        arguments.window_fits(x, spread, dilated, padding, "the dilated kernel")
