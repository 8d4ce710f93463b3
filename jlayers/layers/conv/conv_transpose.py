"""ConvTranspose: fractionally strided convolution, for upsampling."""

from __future__ import annotations

import jax
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.arguments import EdgeSizes, Extents, KernelMask, Positive, Sizes, TransposedPadding
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.specs import format_spec
from ...base.types import Initializer
from ...core.conv.transpose import transposed_amounts
from ...core.padding import ZEROS, Amounts, amounts_of, modes_of
from ...core.time_windows import TransposedTimeWindow
from .base import IMAGE, Image, spread_padding, window_fits
from .convolution import ConvKind, ConvOptions, Placement, convolution


@factory
def ConvTranspose(
    features: Positive,
    kernel_size: Sizes,
    *,
    strides: Sizes = 1,
    padding: TransposedPadding = "VALID",
    cropping: EdgeSizes | None = None,
    output_padding: Extents | None = None,
    dilation: Sizes = 1,
    groups: Positive = 1,
    transpose_kernel: bool = False,
    kernel_mask: KernelMask | None = None,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    method: str | None = None,
) -> Layer:
    """``lax.conv_transpose`` in 1-D, 2-D, 3-D and up (Dumoulin & Visin, 2016, arXiv:1603.07285).

    The kernel has (in, out) as its last axes and is not flipped: the same weights in Keras and
    PyTorch are this kernel flipped along every spatial axis, or that of ``transpose_kernel=True``.

    Args:
      features, kernel_size, strides, dilation, groups, kernel_mask, bias, kernel_init, bias_init:
        as for ``Conv``.
      padding: ``"SAME"`` for an output of size input * stride; ``"VALID"`` for input * stride +
        max(kernel - stride, 0); ``"CAUSAL"`` for input * stride, of which none needs a later step;
        ``"CIRCULAR"`` for input * stride, of an input that is repeated without end; an int or a
        (low, high) pads the dilated input. One for all axes, or one for each; ``"CAUSAL"`` is for
        the first.
      cropping: in place of ``padding``, what PyTorch and Equinox call so: how much is cut off the
        edges of the whole output, of size (input - 1) * stride + dilation * (kernel - 1) + 1. An
        int, or one or a (low, high) for each axis.
      output_padding: with ``cropping`` (by default 0), how much the output is longer at its end; an
        int or one for each axis. With ``padding="SAME"`` the output has (input - 1) * stride +
        extent % 2 + output_padding pixels, as in Keras.
      transpose_kernel: whether the kernel is that of the ``Conv`` of which this is the gradient, as
        Keras and PyTorch store it: (*kernel_size, features / groups, in).
      method: the algorithm, for ``core.conv_transpose``; by default the fastest known where it
        runs. ``jl.explain`` shows which.

    Shapes:
      x: (batch, *spatial, in), floating. y: (batch, *spatial', features), of the dtype of ``x``.
      params: kernel (*kernel_size, in / groups, features), bias (features,).

    Raises:
      LayerError: as ``Conv``, for an empty axis, and for both ``padding`` and ``cropping``.

    >>> import jlayers as jl
    >>> up = jl.ConvTranspose(16, 4, strides=2, padding="SAME")
    >>> jl.out_spec(up, jl.spec((8, 7, 7, 32))).shape
    (8, 14, 14, 16)
    """
    cropped = cropping is not None or output_padding is not None
    lengthened = cropping is None and output_padding is not None and padding == "SAME"
    if cropped and padding != "VALID" and not lengthened:
        raise LayerError(
            "takes padding= alone, or cropping= and output_padding=",
            got=f"padding={padding!r}",
            hint="cropping= for what PyTorch calls padding",
        )

    def amounts(options: ConvOptions) -> Amounts:
        extents, strides, _ = options
        rank = len(extents)
        if not cropped:
            own = spread_padding(padding, rank)
            names = ["SAME" if name == "CIRCULAR" else name for name in own]
            pads = transposed_amounts(extents, strides, names)
            if not transpose_kernel:
                return pads
            # So that it is the gradient of the convolution of that name.
            exact = [(e // 2, s + e - 2 - e // 2) for e, s in zip(extents, strides, strict=True)]
            either = zip(own, exact, pads, strict=True)
            return tuple(its if name == "CIRCULAR" else other for name, its, other in either)
        more = arguments.spread("output_padding", output_padding or 0, rank)
        if lengthened:
            # Keras on JAX and TensorFlow: the larger half is at the beginning.
            totals = [e + e % 2 - 2 + end for e, end in zip(extents, more, strict=True)]
            lows = [min(-(-t // 2), e - 1) for t, e in zip(totals, extents, strict=True)]
            return tuple((low, t - low) for low, t in zip(lows, totals, strict=True))
        crop = amounts_of(extents, extents, strides, spread_padding(cropping or 0, rank))
        axes = zip(extents, crop, more, strict=True)
        return tuple((k - 1 - low, k - 1 - high + end) for k, (low, high), end in axes)

    def place(x: Image, options: ConvOptions) -> Placement:
        # By name as in core.conv_transpose: it depends on the kernel, not on the input.
        pads, (_, strides, _) = amounts(options), options
        modes = modes_of(spread_padding(padding, len(pads)), len(pads))
        window = TransposedTimeWindow(options.extents[0], strides[0], *pads[0], modes[0])
        # As many inputs as a circular padding holds, and zeros for what is left of a stride.
        axes = list(zip(pads, strides, modes, strict=True))
        around = tuple(
            (0, 0) if m == ZEROS else (low // s, high // s) for (low, high), s, m in axes
        )
        zeros = tuple(own if m == ZEROS else (own[0] % s, own[1] % s) for own, s, m in axes)
        return Placement(around, modes, zeros, window)

    def check_fit(x: jax.ShapeDtypeStruct, options: ConvOptions) -> None:
        arguments.not_empty(x, IMAGE)
        rank = len(options.extents)
        if padding == "CAUSAL" and rank != 1:
            raise LayerError(
                "padding 'CAUSAL' is for (batch, time, channels)",
                got=format_spec(x),
                hint=f"one for each axis: padding={('CAUSAL', *('SAME',) * (rank - 1))}",
            )
        sizes = zip(x.shape[1:-1], options.strides, strict=True)
        dilated = [s * (n - 1) + 1 for n, s in sizes]
        # Explicit padding may be too small for the kernel to fit anywhere.
        window_fits(x, dilated, options.extents, amounts(options), "the dilated kernel")

    kind = ConvKind(core.conv_transpose, check_fit, place, transpose_kernel)
    return convolution(
        kind,
        features,
        kernel_size,
        strides=strides,
        dilation=dilation,
        groups=groups,
        kernel_mask=kernel_mask,
        bias=bias,
        kernel_init=kernel_init,
        bias_init=bias_init,
        method=method,
    )
