"""Conv: convolution of any rank, channels last."""

from __future__ import annotations

import jax
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.arguments import CausalPadding, Positive, Sizes
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer
from ...core.time_windows import TimeWindow
from ...core.windows import explicit_padding
from .base import ConvOptions, Image, convolution


@factory
def Conv(
    features: Positive,
    kernel_size: Sizes,
    *,
    strides: Sizes = 1,
    # As in Keras and stax (docs/notes/0004-defaults.md).
    padding: CausalPadding = "VALID",
    dilation: Sizes = 1,
    groups: Positive = 1,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    method: str | None = None,
) -> Layer:
    """Convolution (cross-correlation, as everywhere in the field) in 1-D, 2-D, 3-D and up.

    The rank is the input's. ``groups`` equal to the input's channels is a depthwise convolution.

    Args:
      features: channels of the output.
      kernel_size, strides, dilation: an int for all spatial axes, or one for each.
      padding: ``"VALID"`` (none), ``"SAME"`` (output of size ceil(input / stride)), ``"CAUSAL"``
        (1-D: an output depends on no later step), an int, or a (low, high) for each spatial axis.
      groups: both channel counts are split into as many groups, each convolved on its own.
      bias: whether there is one.
      kernel_init, bias_init: as in ``jax.nn.initializers``.
      method: the algorithm, for ``core.conv``; by default the fastest known where it runs.
        ``jl.explain`` shows which.

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
    # Nothing is assigned before: locals() holds the arguments, which convolution names alike.
    return convolution(core.conv, _check_fit, _time_window, **locals())


def _time_window(x: Image, options: ConvOptions) -> TimeWindow:
    extents, strides, padding, _ = options
    pads = explicit_padding(x, extents, strides, padding)
    # How SAME places its windows depends on the length of the array, so that a padded row has a
    # rule of its own for its valid outputs (docs/notes/0010-sequences.md).
    return TimeWindow(extents[0], strides[0], *pads[0], same=padding == "SAME")


def _check_fit(x: jax.ShapeDtypeStruct, options: ConvOptions) -> None:
    sizes = x.shape[1:-1]
    arguments.window_fits(x, sizes, options.extents, options.padding, "the dilated kernel")
