"""GlobalAvgPool: the mean of each channel."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ...base import arguments
from ...base.factory import factory
from ...base.layer import Layer
from ...core.dtypes import at_least_float32
from .base import global_pool


@factory
def GlobalAvgPool() -> Layer:
    """The mean over all spatial axes, for each channel.

    Of a ``Sequence``, over its valid steps; zero where there are none.

    Shapes:
      x: (batch, *spatial, channels), floating. y: (batch, channels), of the dtype of ``x``; sums
      are taken in float32 at least.

    Raises:
      LayerError: for an input of rank below 3 or of integers, and for an empty axis.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.GlobalAvgPool(), jl.spec((8, 7, 7, 32))).shape
    (8, 32)
    """

    def pool(x: jax.Array, mask: jax.Array | None) -> jax.Array:
        arguments.floating(x)
        axes, wide = tuple(range(1, x.ndim - 1)), at_least_float32(x.dtype)
        if mask is None:
            return jnp.mean(x, axes, dtype=wide).astype(x.dtype)
        # The padding holds zeros, so the sum needs no mask; the count does.
        total = jnp.sum(x, axes, dtype=wide)
        # At least 1: a row without steps gives 0 and not 0 / 0.
        count = jnp.maximum(jnp.sum(mask, 1), 1) * math.prod(x.shape[2:-1])
        return (total / jnp.broadcast_to(count[:, None], total.shape).astype(wide)).astype(x.dtype)

    return global_pool(pool)
