"""The row of a table that is nearest to a vector."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from .dtypes import at_least_float32


def nearest(x: jax.Array, table: jax.Array) -> jax.Array:
    """Which row of a table has the smallest distance, the first if several have.

    Args:
      x: (..., features).
      table: (rows, features).

    Returns:
      int32 (...,).

    >>> import jax.numpy as jnp, jlayers as jl
    >>> jl.core.nearest(jnp.array([[0.9], [0.1]]), jnp.array([[0.0], [1.0]])).tolist()
    [1, 0]
    """
    wide = at_least_float32(x.dtype)
    x, table = x.astype(wide), table.astype(wide)
    # The square of the distance, without that of x, which is the same for all rows.
    products = lax.dot_general(x, table, (((x.ndim - 1,), (1,)), ((), ())))
    squares = jnp.broadcast_to(jnp.sum(table * table, -1), products.shape)
    return jnp.argmin(squares - 2 * products, -1).astype(jnp.int32)
