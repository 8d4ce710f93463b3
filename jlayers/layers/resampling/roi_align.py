"""RoIAlign: boxes of images as images of one size."""

from __future__ import annotations

from typing import Any

import jax

from ... import core
from ...base import arguments
from ...base.arguments import AboveZero, Sizes
from ...base.constructors import no_params, pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence_mode import SequenceMode
from ...base.specs import format_spec
from ...base.types import Params
from .base import IMAGE, pair


@factory
def RoIAlign(
    sizes: Sizes, *, samples: Sizes = 2, scale: AboveZero = 1.0, aligned: bool = True
) -> Layer:
    """Each box of an image as an image of ``sizes`` cells (He et al., 2017, arXiv:1703.06870).

    A cell is the mean of values that are interpolated between pixels. Values more than a pixel
    outside the image are 0.

    Args:
      sizes: an int for all spatial axes, or one for each.
      samples: likewise; how many values a cell is the mean of, in each direction. torchvision's
        ``sampling_ratio``, whose default takes more of them in larger boxes: a number that depends
        on values cannot be compiled.
      scale: by which boxes are multiplied, the size of ``x`` over that of the image they are in.
      aligned: whether 0 is the edge of the first pixel, as in Detectron2 and ONNX since opset 16;
        otherwise it is its centre, and boxes are of a pixel at least: torchvision's default.

    Shapes:
      x: a tuple (image, boxes): (batch, *spatial, channels) and (batch, boxes, 2 * rank), both
      floating. A box is one corner and the opposite one, each with the last spatial axis first:
      (x1, y1, x2, y2) for images.
      y: (batch, boxes, *sizes, channels), of the dtype of the image.

    Raises:
      LayerError: for anything but such a pair.

    >>> import jlayers as jl
    >>> x = jl.spec((2, 32, 32, 16)), jl.spec((2, 10, 4))
    >>> jl.out_spec(jl.RoIAlign(7, scale=1 / 8), x).shape
    (2, 10, 7, 7, 16)
    """

    def apply(params: Params, x: Any) -> jax.Array:
        image, boxes = pair(x, "(image, boxes)", f"{IMAGE} and (batch, boxes, 2 * rank)")
        rank = len(image.shape) - 2
        fits = boxes.shape[::2] == (image.shape[0], 2 * rank)
        if len(boxes.shape) != 3 or not fits:
            raise LayerError(
                "the boxes do not fit the image",
                expected=f"(batch, boxes, {2 * rank})",
                got=format_spec(x),
            )
        arguments.not_empty(image, IMAGE)
        cells, values = (
            arguments.spread(name, value, rank)
            for name, value in (("sizes", sizes), ("samples", samples))
        )
        return core.roi_align(image, boxes, cells, samples=values, scale=scale, aligned=aligned)

    return pure(no_params, apply, sequence_mode=SequenceMode.UNKNOWN)
