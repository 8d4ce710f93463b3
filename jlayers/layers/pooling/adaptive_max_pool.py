"""AdaptiveMaxPool: the largest values of as many windows as are asked for."""

from __future__ import annotations

import jax

from ... import core
from ...base.arguments import SizesOrNone
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import PyTree
from ...core.adaptive_pooling import adaptive_places
from ...core.pool_indices import indices_of_max
from .base import adaptive_pool, check_known_sizes


@factory
def AdaptiveMaxPool(sizes: SizesOrNone, *, indices: bool = False) -> Layer:
    """The largest values of windows that divide each spatial axis as evenly as pixels allow.

    Output i of n covers the pixels from ``floor(i * size / n)`` up to, not including,
    ``ceil((i + 1) * size / n)``, as in PyTorch. Where n does not divide the size, windows overlap.

    Args:
      sizes: of the output, an int for all spatial axes or one for each; None keeps an axis.
      indices: as for ``MaxPool``.

    Shapes:
      x: (batch, *spatial, channels). y: (batch, *sizes, channels), of the dtype of ``x``; with
      ``indices`` the pair of it and int32 of that shape.

    Raises:
      LayerError: for an input of another rank or with an empty axis, for other sizes than 1 of an
        axis without a known size, and for a ``Sequence`` whose first spatial axis, time, changes.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.AdaptiveMaxPool(7), jl.spec((8, 30, 28, 32))).shape
    (8, 7, 7, 32)
    """

    def pool(x: jax.Array, sizes: tuple[int, ...]) -> PyTree:
        y = core.adaptive_max_pool(x, sizes)
        if not indices:
            return y
        check_known_sizes(x)
        places = [adaptive_places(*pair) for pair in zip(x.shape[1:-1], sizes, strict=True)]
        return y, indices_of_max(x, places)

    return adaptive_pool(pool, sizes, refuses_time=indices)
