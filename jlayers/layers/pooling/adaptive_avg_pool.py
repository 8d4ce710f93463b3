"""AdaptiveAvgPool: means of as many windows as are asked for."""

from __future__ import annotations

import jax

from ... import core
from ...base import arguments
from ...base.arguments import SizesOrNone
from ...base.factory import factory
from ...base.layer import Layer
from .base import adaptive_pool


@factory
def AdaptiveAvgPool(sizes: SizesOrNone) -> Layer:
    """The means of windows that divide each spatial axis as evenly as whole pixels allow.

    Output i of n is the mean of the pixels from ``floor(i * size / n)`` up to, not including,
    ``ceil((i + 1) * size / n)``, as in PyTorch. Where n does not divide the size, windows overlap.

    Args:
      sizes: of the output, an int for all spatial axes or one for each; None keeps an axis.

    Shapes:
      x: (batch, *spatial, channels), floating. y: (batch, *sizes, channels), of the dtype of ``x``;
      sums are taken in float32 at least.

    Raises:
      LayerError: for an input of another rank or with an empty axis, for other sizes than 1 of an
        axis without a known size, and for a ``Sequence`` whose first spatial axis, time, changes.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.AdaptiveAvgPool((7, None)), jl.spec((8, 30, 28, 32))).shape
    (8, 7, 28, 32)
    """

    def pool(x: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
        arguments.floating(x)
        return core.adaptive_avg_pool(x, sizes)

    return adaptive_pool(pool, sizes)
