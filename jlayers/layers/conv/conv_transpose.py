"""ConvTranspose: fractionally strided convolution, for upsampling."""

from __future__ import annotations

import jax
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.arguments import Padding, Positive, Sizes
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer
from ...core.conv.transpose import transposed_padding
from ...core.time_windows import TransposedTimeWindow
from .base import IMAGE, ConvOptions, Image, convolution


@factory
def ConvTranspose(
    features: Positive,
    kernel_size: Sizes,
    *,
    strides: Sizes = 1,
    padding: Padding = "VALID",
    dilation: Sizes = 1,
    groups: Positive = 1,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    method: str | None = None,
) -> Layer:
    """``lax.conv_transpose`` in 1-D, 2-D, 3-D and up (Dumoulin & Visin, 2016, arXiv:1603.07285).

    The kernel has (in, out) as its last axes and is not flipped: the same weights in Keras and
    PyTorch are this kernel flipped along every spatial axis.

    Args:
      features, kernel_size, strides, dilation, groups, bias, kernel_init, bias_init: as for
        ``Conv``.
      padding: ``"SAME"`` for an output of size input * stride; ``"VALID"`` for input * stride +
        max(kernel - stride, 0); an int or a (low, high) for each axis pads the dilated input.
      method: the algorithm, for ``core.conv_transpose``; by default the fastest known where it
        runs. ``jl.explain`` shows which.

    Shapes:
      x: (batch, *spatial, in), floating. y: (batch, *spatial', features), of the dtype of ``x``.
      params: kernel (*kernel_size, in / groups, features), bias (features,).

    Raises:
      LayerError: as ``Conv``, and for an empty axis.

    >>> import jlayers as jl
    >>> up = jl.ConvTranspose(16, 4, strides=2, padding="SAME")
    >>> jl.out_spec(up, jl.spec((8, 7, 7, 32))).shape
    (8, 14, 14, 16)
    """
    # As in Conv: locals() holds the arguments alone.
    return convolution(core.conv_transpose, _check_fit, _time_window, **locals())


def _time_window(x: Image, options: ConvOptions) -> TransposedTimeWindow:
    extent, stride, pads = options.extents[0], options.strides[0], options.padding
    # As in core.conv_transpose: padding by name depends on the kernel, not on the input.
    low, high = transposed_padding(extent, stride, pads) if isinstance(pads, str) else pads[0]
    return TransposedTimeWindow(extent, stride, low, high)


def _check_fit(x: jax.ShapeDtypeStruct, options: ConvOptions) -> None:
    extents, strides, padding, _ = options
    arguments.not_empty(x, IMAGE)
    # Explicit padding may be too small for the kernel to fit anywhere.
    if not isinstance(padding, str):  # padding by name is as large as the kernel needs
        dilated = [s * (n - 1) + 1 for n, s in zip(x.shape[1:-1], strides, strict=True)]
        arguments.window_fits(x, dilated, extents, padding, "the dilated kernel")
