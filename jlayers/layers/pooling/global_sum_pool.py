"""GlobalSumPool: the sum of each channel."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...base import arguments
from ...base.factory import factory
from ...base.layer import Layer
from ...core.dtypes import at_least_float32
from .base import global_pool


@factory
def GlobalSumPool() -> Layer:
    """The sum over all spatial axes, for each channel.

    Of a ``Sequence``, over its valid steps; zero where there are none.

    Shapes:
      x: (batch, *spatial, channels), floating. y: (batch, channels), of the dtype of ``x``; sums
      are taken in float32 at least.

    Raises:
      LayerError: for an input of rank below 3 or of integers, and for an empty axis.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> jl.GlobalSumPool().apply({}, {}, jnp.ones((1, 2, 3, 1)))[0].tolist()
    [[6.0]]
    """

    def pool(x: jax.Array, mask: jax.Array | None) -> jax.Array:
        arguments.floating(x)
        axes, wide = tuple(range(1, x.ndim - 1)), at_least_float32(x.dtype)
        # The padding holds zeros.
        return jnp.sum(x, axes, dtype=wide).astype(x.dtype)

    return global_pool(pool)
