"""PixelUnshuffle: blocks of pixels as channels of an image that is smaller."""

from __future__ import annotations

import math

import jax

from ...base.arguments import Sizes
from ...base.factory import factory
from ...base.layer import Layer
from ..shape.base import per_row
from .base import check_divides, spatial


@factory
def PixelUnshuffle(factor: Sizes) -> Layer:
    """Blocks of ``factor`` x ``factor`` pixels as channels: the inverse of ``PixelShuffle``.

    Args:
      factor: an int for all spatial axes, or one for each.

    Shapes:
      x: (batch, *spatial, channels). y: (batch, *(spatial / factor), channels * product of
      factors), of the dtype of ``x``.

    Raises:
      LayerError: for an input of another rank, where a factor does not divide its axis, and for a
        ``Sequence``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.PixelUnshuffle(2), jl.spec((8, 10, 12, 3))).shape
    (8, 5, 6, 12)
    """

    def unshuffle(x: jax.Array) -> jax.Array:
        factors = spatial(x, factor)
        check_divides(x, factors, "spatial axes of the input", x.shape[1:-1])
        rank, channels = len(factors), x.shape[-1]
        sizes = [size // f for size, f in zip(x.shape[1:-1], factors, strict=True)]
        split = [part for pair in zip(sizes, factors, strict=True) for part in pair]
        x = x.reshape(x.shape[0], *split, channels)
        blocks, inside = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
        y = x.transpose(0, *blocks, 2 * rank + 1, *inside)
        return y.reshape(x.shape[0], *sizes, channels * math.prod(factors))

    return per_row(unshuffle)
