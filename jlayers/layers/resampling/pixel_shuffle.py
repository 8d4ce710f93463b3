"""PixelShuffle: channels as pixels of an image that is larger."""

from __future__ import annotations

import math

import jax

from ...base.arguments import Sizes
from ...base.factory import factory
from ...base.layer import Layer
from ...core.dtypes import reshape_rows
from ..shape.base import per_row
from .base import check_divides, spatial


@factory
def PixelShuffle(factor: Sizes) -> Layer:
    """Each pixel's channels as a block of ``factor`` x ``factor`` pixels.

    Channel ``c * factor ** 2 + i * factor + j`` is pixel (i, j) of the block in channel c, as in
    PyTorch (Shi et al., 2016, arXiv:1609.05158). TensorFlow's ``depth_to_space`` has c innermost.

    Args:
      factor: an int for all spatial axes, or one for each.

    Shapes:
      x: (batch, *spatial, channels * product of factors). y: (batch, *(spatial * factor),
      channels), of the dtype of ``x``.

    Raises:
      LayerError: for an input of another rank, where the factors do not divide the channels, and
        for a ``Sequence``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.PixelShuffle(2), jl.spec((8, 5, 6, 12))).shape
    (8, 10, 12, 3)
    """

    def shuffle(x: jax.Array) -> jax.Array:
        factors = spatial(x, factor)
        count = math.prod(factors)
        check_divides(x, (count,), "channels of the input", x.shape[-1:])
        rank, channels = len(factors), x.shape[-1] // count
        x = x.reshape(*x.shape[:-1], channels, *factors)
        # (batch, *spatial, channels, *factors): each factor goes behind its spatial axis.
        pairs = [axis for i in range(rank) for axis in (1 + i, rank + 2 + i)]
        y = x.transpose(0, *pairs, rank + 1)
        sizes = (size * f for size, f in zip(x.shape[1 : rank + 1], factors, strict=True))
        return reshape_rows(y, (x.shape[0], *sizes, channels))

    return per_row(shuffle)
