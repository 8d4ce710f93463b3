"""What ``Conv`` and ``ConvTranspose`` share: their arguments, parameters and padding.

How to read this file: ``convolution`` checks the arguments and makes the layer; a ``ConvKind`` says
what the two kinds do differently. ``Placement`` is how the kernel lies on one input.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ...base import arguments
from ...base.arguments import Sizes
from ...base.errors import LayerError
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.specs import cast_like, format_short, format_spec
from ...base.types import Initializer, Params
from ...core.padding import Amounts, extend, extend_rows
from ...core.time_windows import TimeWindow, TransposedTimeWindow
from .base import IMAGE, NO_CHANNELS, Image, WindowedOp, windowed_layer


class ConvOptions(NamedTuple):
    """One entry for each spatial axis of an input; ``extents`` are those of the dilated kernel."""

    extents: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]


class Placement(NamedTuple):
    """How a kernel lies on one input.

    Attributes:
      around: (low, high) for each spatial axis, how much of itself is put round the image first.
      modes: what is in that, as in ``core.padding``.
      padding: the padding of the operation itself, by zeros.
      window: along the first spatial axis, time.
    """

    around: Amounts
    modes: tuple[str, ...]
    padding: Amounts
    window: TimeWindow | TransposedTimeWindow


class ConvKind(NamedTuple):
    """What is not the same for all convolutions.

    Attributes:
      run: ``core.conv`` or ``core.conv_transpose``, or a function with their arguments.
      check_fit: ``check_fit(x, options)`` raises where the dilated kernel is too large.
      place: ``place(x, options)``.
      transpose_kernel: whether the kernel is that of the convolution of which this is the gradient.
    """

    run: Callable[..., jax.Array]
    check_fit: Callable[[jax.ShapeDtypeStruct, ConvOptions], None]
    place: Callable[[Image, ConvOptions], Placement]
    transpose_kernel: bool = False


def convolution(
    kind: ConvKind,
    features: int,
    kernel_size: Sizes,
    *,
    strides: Sizes,
    dilation: Sizes,
    groups: int,
    kernel_mask: Any,
    bias: bool,
    kernel_init: Initializer,
    bias_init: Initializer,
    method: str | None,
) -> Layer:
    """The layer of a convolution."""
    # Without an input, so that it is found where the layer is built.
    _check_divides(groups, features, "features")

    # The rank is the input's. Most layers meet one rank alone, in every call.
    @functools.cache
    def options(rank: int) -> ConvOptions:
        sizes = arguments.spread("kernel_size", kernel_size, rank)
        dilations = arguments.spread("dilation", dilation, rank)
        return ConvOptions(
            tuple(d * (k - 1) + 1 for k, d in zip(sizes, dilations, strict=True)),
            arguments.spread("strides", strides, rank),
            dilations,
        )

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        rank = len(kernel_size) + 2 if isinstance(kernel_size, tuple) else None
        arguments.one_array(x, IMAGE, rank=rank, least_rank=3, lower=NO_CHANNELS)
        arguments.floating(x)
        arguments.has_features(x, IMAGE)
        size = arguments.spread("kernel_size", kernel_size, len(x.shape) - 2)
        _check_divides(groups, x.shape[-1], "channels of the input", format_spec(x))
        kind.check_fit(x, options(len(size)))
        channels = (x.shape[-1] // groups, features)
        if kind.transpose_kernel:
            channels = (features // groups, x.shape[-1])
        _check_mask(kernel_mask, (*size, *channels))
        return initialize(
            key,
            x,
            kernel=(kernel_init, (*size, *channels)),
            bias=(bias_init, (features,)) if bias else None,
        )

    def apply(params: Params, x: jax.Array, mask: jax.Array | None, has_context: bool) -> jax.Array:
        own = options(x.ndim - 2)
        around, modes, padding, window = kind.place(x, own)
        # Only the first axis is time; the others are padded as always.
        if has_context:
            around = ((0, 0), *around[1:])
            padding = (window.padding_after_context, *padding[1:])
        # Each row by itself, or the end of the array would be taken for that of the row.
        elif mask is not None and any(around[0]):
            x = extend_rows(x, mask, around[0], modes[0])
            around = ((0, 0), *around[1:])
        x = extend(x, around, modes)
        weights = cast_like(params, x)
        kernel = weights.pop("kernel")
        if kernel_mask is not None:
            kernel = kernel * np.asarray(kernel_mask).astype(kernel.dtype)
        if kind.transpose_kernel:
            kernel = transposed(kernel, groups)
        return kind.run(
            x,
            kernel,
            **weights,
            strides=own.strides,
            padding=padding,
            dilation=own.dilation,
            groups=groups,
            method=method,
        )

    # A function of the input, because SAME pads by its length.
    def window(x: Image) -> TimeWindow | TransposedTimeWindow:
        return kind.place(x, options(len(x.shape) - 2)).window

    return windowed_layer(init, WindowedOp(window, apply))


def transposed(kernel: jax.Array, groups: int) -> jax.Array:
    """Of (*size, out / groups, in), flipped along each spatial axis: (*size, in / groups, out)."""
    *size, features, inputs = kernel.shape
    kernel = jax.numpy.flip(kernel, tuple(range(len(size))))
    kernel = kernel.reshape(*size, features, groups, inputs // groups)
    order = [*range(len(size)), -1, -2, -3]
    kernel = jax.numpy.transpose(kernel, [axis % kernel.ndim for axis in order])
    return kernel.reshape(*size, inputs // groups, groups * features)


def _check_mask(mask: Any, shape: tuple[int, ...]) -> None:
    if mask is None:
        return
    own = np.shape(mask)
    if len(own) != len(shape) or any(m not in (1, n) for m, n in zip(own, shape, strict=True)):
        raise LayerError(
            f"kernel_mask {own} does not broadcast to the kernel {shape}",
            got=format_short(mask),
            hint="kernel_mask[..., None, None] for one that is the same for all channels",
        )


def _check_divides(groups: int, channels: int, what: str, got: str | None = None) -> None:
    # Nothing is left over: XLA would refuse it too, in words of its own.
    if channels % groups:
        raise LayerError(f"groups {groups} do not divide the {channels} {what}", got=got)
