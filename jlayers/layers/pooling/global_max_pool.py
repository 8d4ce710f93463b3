"""GlobalMaxPool: the largest value of each channel."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ... import core
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence import Sequence
from ...core.dtypes import min_value
from .base import global_pool


@factory
def GlobalMaxPool() -> Layer:
    """The largest value over all spatial axes, for each channel.

    Of a ``Sequence``, over its valid steps; zero where there are none.

    Shapes:
      x: (batch, *spatial, channels). y: (batch, channels), of the dtype of ``x``.

    Raises:
      LayerError: for an input of rank below 3, and for an empty axis.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.GlobalMaxPool(), jl.spec((8, 7, 7, 32))).shape
    (8, 32)
    """

    def pool(x: jax.Array, mask: jax.Array | None) -> jax.Array:
        if mask is None:
            return core.global_max_pool(x)
        # Zeros, as the padding holds here, may be larger than every valid value.
        y = core.global_max_pool(Sequence(x, mask).fill(min_value(x.dtype)))
        nonempty = jnp.broadcast_to(jnp.any(mask, 1)[:, None], y.shape)
        # Zero for a row without steps: minus infinity would turn losses and gradients into NaN.
        return jnp.where(nonempty, y, jnp.zeros_like(y))

    return global_pool(pool)
