"""GlobalMinPool: the smallest value of each channel."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ... import core
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence import Sequence
from ...core.dtypes import max_value
from .base import global_pool


@factory
def GlobalMinPool() -> Layer:
    """The smallest value over all spatial axes, for each channel.

    Of a ``Sequence``, over its valid steps; zero where there are none.

    Shapes:
      x: (batch, *spatial, channels). y: (batch, channels), of the dtype of ``x``.

    Raises:
      LayerError: for an input of rank below 3, and for an empty axis.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> jl.GlobalMinPool().apply({}, {}, jnp.array([[[2.0, 8.0], [3.0, 5.0]]]))[0].tolist()
    [[2.0, 5.0]]
    """

    def pool(x: jax.Array, mask: jax.Array | None) -> jax.Array:
        if mask is None:
            return core.global_min_pool(x)
        # Zeros, as the padding holds here, may be smaller than every valid value.
        y = core.global_min_pool(Sequence(x, mask).fill(max_value(x.dtype)))
        nonempty = jnp.broadcast_to(jnp.any(mask, 1)[:, None], y.shape)
        # Zero for a row without steps: infinity would turn losses and gradients into NaN.
        return jnp.where(nonempty, y, jnp.zeros_like(y))

    return global_pool(pool)
