"""DeformableConv: a convolution that reads where offsets say."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.nn import initializers

from ...base import arguments
from ...base.arguments import CausalPadding, Positive, Sizes
from ...base.constructors import pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.sequence import join, split
from ...base.sequence_mode import SequenceMode
from ...base.specs import cast_like, format_spec
from ...base.types import Initializer, Params
from ...core.conv.geometry import Geometry, output_sizes
from ...core.deformable import deformable_conv
from ...core.dense import add_bias
from ...core.padding import amounts_of
from ...core.time_windows import TimeWindow
from .base import IMAGE, NO_CHANNELS, spread_padding, window_fits
from .unfold import place


@factory
def DeformableConv(
    features: Positive,
    kernel_size: Sizes,
    *,
    strides: Sizes = 1,
    padding: CausalPadding = "VALID",
    dilation: Sizes = 1,
    groups: Positive = 1,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """A convolution with an offset for each element of its kernel at each output.

    ``y[p] = sum_k m[p, k] x[strides * p + dilation * k + offset[p, k]] @ kernel[k] + bias``, where
    ``x`` is linear between its pixels and zero beyond its edges (Dai et al., 2017,
    arXiv:1703.06211; with the modulation ``m``: Zhu et al., 2019, arXiv:1811.11168).

    The offsets are an input. A convolution of the same sizes computes them, at first all zero::

        offset = Conv(2 * 9, 3, padding="SAME", kernel_init=jax.nn.initializers.zeros)
        serial(branch(serial(), offset), DeformableConv(64, 3, padding="SAME"))

    Args:
      features, kernel_size, strides, dilation, groups, bias, kernel_init, bias_init: as for
        ``Conv``.
      padding: as for ``Conv``, of zeros.

    Shapes:
      x: (image, offsets) or (image, offsets, m). image: (batch, *spatial, in), floating. offsets:
      (batch, *spatial', g * elements * rank) in pixels, for g groups of the image's channels, the
      elements of the kernel in row-major order, and the spatial axes, the last one fastest; m:
      (batch, *spatial', g * elements). Both as in torchvision and ONNX, with their channels last.
      y: (batch, *spatial', features), of the dtype of ``image``; NaN where an offset is.
      params: kernel (*kernel_size, in / groups, features), bias (features,).

    Raises:
      LayerError: as ``Conv``, and for offsets or a modulation of another shape.

    >>> import jlayers as jl
    >>> image, offsets = jl.spec((8, 28, 28, 4)), jl.spec((8, 28, 28, 18))
    >>> jl.out_spec(jl.DeformableConv(32, 3, padding="SAME"), (image, offsets)).shape
    (8, 28, 28, 32)
    """
    if features % groups:
        raise LayerError(f"groups {groups} do not divide the {features} features")

    def placed(image: Any) -> tuple[tuple[int, ...], Geometry, TimeWindow]:
        size, options = place(kernel_size, strides, dilation, image, "kernel_size")
        own = spread_padding(padding, len(size))
        pads = amounts_of(image.shape[1:-1], options.extents, options.strides, own)
        same = own[0] in ("SAME", "SAME_LOWER")
        window = TimeWindow(options.extents[0], options.strides[0], *pads[0], same)
        window_fits(image, image.shape[1:-1], options.extents, own, "the dilated kernel")
        return size, Geometry(options.strides, pads, options.dilation, groups), window

    def init(key: jax.Array, x: Any) -> Params:
        if not isinstance(x, tuple | list) or len(x) not in (2, 3):
            raise LayerError(
                "takes (image, offsets) or (image, offsets, modulation)",
                got=format_spec(x),
                hint="branch(serial(), Conv(...)) before it computes the offsets",
            )
        image, offsets, *modulation = x
        arguments.one_array(image, IMAGE, least_rank=3, lower=NO_CHANNELS)
        arguments.floating(image)
        arguments.not_empty(image, IMAGE)
        if image.shape[-1] % groups:
            raise LayerError(
                f"groups {groups} do not divide the {image.shape[-1]} channels of the input",
                got=format_spec(image),
            )
        size, geometry, _ = placed(image)
        sizes = output_sizes(image.shape[1:-1], (*size, 0, 0), geometry)
        _check_shapes(image, offsets, modulation, sizes, math.prod(size))
        return initialize(
            key,
            image,
            kernel=(kernel_init, (*size, image.shape[-1] // groups, features)),
            bias=(bias_init, (features,)) if bias else None,
        )

    def apply(params: Params, x: Any) -> Any:
        (image, mask), *others = map(split, x)
        _, geometry, window = placed(image)
        own = cast_like(params, image)
        offsets, modulation = others[0][0], others[1][0] if len(others) > 1 else None
        y = deformable_conv(image, own["kernel"], offsets, modulation, geometry)
        y = add_bias(y, own["bias"]) if "bias" in own else y
        return join(y, None if mask is None else window.outputs(mask, y.shape[1]))

    return pure(
        init,
        apply,
        sequence_mode=SequenceMode("whole"),
        stream="its offsets may reach later steps",
    )


def _check_shapes(
    image: Any, offsets: Any, modulation: list[Any], sizes: tuple[int, ...], elements: int
) -> None:
    """Of offsets and modulation, which have the size of the output and as many groups."""
    lead, channels = (image.shape[0], *sizes), image.shape[-1]
    all_offsets = elements * len(sizes)
    parts = [("offsets", offsets, all_offsets), *(("modulation", m, elements) for m in modulation)]
    for what, x, each in parts:
        fits = hasattr(x, "shape") and len(x.shape) == len(lead) + 1
        number, rest = divmod(x.shape[-1], each) if fits else (0, 0)
        fits = fits and x.shape[:-1] == lead and number > 0 and not rest
        if not fits or channels % number or number != offsets.shape[-1] // all_offsets:
            raise LayerError(
                f"the {what} must have the sizes of the output, and channels for the kernel",
                expected=f"({', '.join(map(str, lead))}, groups of channels * {each})",
                got=format_spec(x),
            )
