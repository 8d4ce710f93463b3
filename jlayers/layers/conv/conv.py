"""Conv: convolution of any rank, channels last."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.arguments import ConvPadding, KernelMask, PaddingMode, Positive, Sizes
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.specs import format_spec
from ...base.types import Initializer
from ...core.padding import ZEROS, Amounts, amounts_of, apart, modes_of
from ...core.time_windows import TimeWindow
from .base import IMAGE, Image, spread_padding, window_fits
from .convolution import ConvKind, ConvOptions, Placement, convolution


@factory
def Conv(
    features: Positive,
    kernel_size: Sizes,
    *,
    strides: Sizes = 1,
    # As in Keras and stax (docs/notes/0004-defaults.md).
    padding: ConvPadding = "VALID",
    padding_mode: PaddingMode = ZEROS,
    dilation: Sizes = 1,
    input_dilation: Sizes = 1,
    groups: Positive = 1,
    kernel_mask: KernelMask | None = None,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    method: str | None = None,
) -> Layer:
    """Convolution (cross-correlation, as everywhere in the field) in 1-D, 2-D, 3-D and up.

    The rank is the input's. ``groups`` equal to the input's channels is a depthwise convolution.

    With an extent of ``e = dilation * (kernel_size - 1) + 1``, a padding is

    ====================  ==========================================================================
    ``"VALID"``           none
    ``"SAME"``            for an output of size ceil(input / stride); of an odd number the larger
                          half is at the end, with ``"SAME_LOWER"`` at the beginning
    ``"CAUSAL"``          (e - 1, 0): an output depends on no later step. ``"REVERSE_CAUSAL"``:
                          (0, e - 1), on no earlier one
    ``"FULL"``            (e - 1, e - 1): an output for each pixel that meets the kernel
    ``"REFLECT"``,        ((e - 1) // 2, e // 2), not of zeros: the image mirrored at its outermost
    ``"REPLICATE"``,      pixel, that pixel again, or the image again
    ``"CIRCULAR"``
    ====================  ==========================================================================

    Args:
      features: channels of the output.
      kernel_size, strides, dilation: an int for all spatial axes, or one for each.
      padding: one of these names, or an int; or for each spatial axis a name, an int or a
        (low, high), ``("CAUSAL", "SAME")`` for a spectrogram.
      padding_mode: what is in a padding that does not say it by its name: ``"zeros"``,
        ``"reflect"``, ``"replicate"`` or ``"circular"``.
      input_dilation: the input is first spread out, with ``input_dilation - 1`` zeros between its
        pixels (``lhs_dilation`` of ``lax``).
      groups: both channel counts are split into as many groups, each convolved on its own.
      kernel_mask: an array by which the kernel is multiplied, of its shape or with sizes of 1
        (van den Oord et al., 2016, arXiv:1601.06759).
      bias: whether there is one.
      kernel_init, bias_init: as in ``jax.nn.initializers``.
      method: the algorithm, for ``core.conv``; by default the fastest known where it runs.
        ``jl.explain`` shows which.

    Shapes:
      x: (batch, *spatial, in), floating. y: (batch, *spatial', features), of the dtype of ``x``.
      params: kernel (*kernel_size, in / groups, features), bias (features,).

    Raises:
      LayerError: for an input of another rank, channels that the groups do not divide, a kernel
        larger than the padded input, and ``"CAUSAL"`` for several axes at once.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.Conv(32, 3, strides=2, padding="SAME"), jl.spec((8, 28, 28, 1))).shape
    (8, 14, 14, 32)
    """
    named = isinstance(padding, str) and modes_of(padding, 1) != (ZEROS,)
    if named and padding_mode != ZEROS:
        raise LayerError(f"padding {padding!r} is a padding_mode itself, got {padding_mode!r} too")

    def spreads(rank: int) -> tuple[int, ...]:
        return arguments.spread("input_dilation", input_dilation, rank)

    def paddings(rank: int) -> tuple[tuple[str | tuple[int, int], ...], tuple[str, ...]]:
        own = spread_padding(padding, rank)
        return own, modes_of(own, rank, padding_mode)

    def place(x: Image, options: ConvOptions) -> Placement:
        extents, strides, _ = options
        spread, (own, modes) = spreads(len(extents)), paddings(len(extents))
        pads = amounts_of(_sizes(x, spread), extents, strides, own)
        # How SAME places its windows depends on the length of the array, so that a padded row has a
        # rule of its own for its valid outputs (docs/notes/0010-sequences.md).
        same = own[0] in ("SAME", "SAME_LOWER")
        window = TimeWindow(extents[0], strides[0], *pads[0], same, modes[0], spread[0])
        around, zeros = apart(pads, modes)
        return Placement(around, modes, zeros, window)

    def check_fit(x: jax.ShapeDtypeStruct, options: ConvOptions) -> None:
        rank = len(options.extents)
        spread, (own, modes) = spreads(rank), paddings(rank)
        # For images "causal" has no agreed meaning; a pool takes its first axis as time.
        if padding in ("CAUSAL", "REVERSE_CAUSAL") and rank != 1:
            raise LayerError(
                f"padding {padding!r} is for (batch, time, channels)",
                got=format_spec(x),
                hint=f"one for each axis: padding={(padding, *('SAME',) * (rank - 1))}",
            )
        of_zeros, dense = set(modes) == {ZEROS}, set(spread) == {1}
        if not of_zeros and not dense:
            raise LayerError("input_dilation goes with padding by zeros alone", got=str(modes))
        # No image: there is nothing to repeat or to spread out, and no pixel that meets the kernel.
        if not of_zeros or not dense or "FULL" in own:
            arguments.not_empty(x, IMAGE)
        window_fits(x, _sizes(x, spread), options.extents, own, "the dilated kernel")

    kind = ConvKind(functools.partial(_run, spreads), check_fit, place)
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


def _sizes(x: Image, spread: tuple[int, ...]) -> list[int]:
    return [d * (n - 1) + 1 for n, d in zip(x.shape[1:-1], spread, strict=True)]


def _run(
    spreads: Any,
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    strides: tuple[int, ...],
    padding: Amounts,
    **options: Any,
) -> jax.Array:
    dilation = spreads(x.ndim - 2)
    if set(dilation) == {1}:
        return core.conv(x, kernel, bias, strides=strides, padding=padding, **options)
    # At stride 1 that is what a transposed convolution does, without a product with the zeros.
    if set(strides) == {1}:
        return core.conv_transpose(x, kernel, bias, strides=dilation, padding=padding, **options)
    spread = [(0, 0, 0), *((0, 0, d - 1) for d in dilation), (0, 0, 0)]
    x = lax.pad(x, np.zeros((), x.dtype), spread)
    return core.conv(x, kernel, bias, strides=strides, padding=padding, **options)
