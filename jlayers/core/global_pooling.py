"""Largest and smallest values over whole axes; the first of equal ones has the gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from .dtypes import turned_round


def global_max_pool(x: jax.Array) -> jax.Array:
    """The largest value over all spatial axes; of equal values the first one has the gradient.

    Args:
      x: (batch, *spatial, channels), floating or integer.

    Returns:
      (batch, channels), of the dtype of ``x``.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> jl.core.global_max_pool(jnp.array([[[1.0, 8.0], [3.0, 2.0]]])).tolist()
    [[3.0, 8.0]]
    """
    for _ in range(x.ndim - 2):
        x = max_axis_1(x)
    return x


def global_min_pool(x: jax.Array) -> jax.Array:
    """The smallest value over all spatial axes; of equal values the first one has the gradient.

    Args:
      x: (batch, *spatial, channels), floating or integer.

    Returns:
      (batch, channels), of the dtype of ``x``.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> jl.core.global_min_pool(jnp.array([[[1.0, 8.0], [3.0, 2.0]]])).tolist()
    [[1.0, 2.0]]
    """
    return turned_round(global_max_pool(turned_round(x)))


def max_axis_1(x: jax.Array) -> jax.Array:
    """The largest value along axis 1; of equal values the first one has the gradient."""
    return _max_axis_1(x) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.max(x, 1)


# The gradient of jnp.max looks for the largest value with ==. A compiled program may compute ``x``
# twice, with different roundings: then nothing is found, and the gradient is wrong or NaN.
@jax.custom_jvp
def _max_axis_1(x: jax.Array) -> jax.Array:
    return jnp.max(x, 1)


@_max_axis_1.defjvp
def _max_axis_1_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    argmax = jnp.argmax(x, 1, keepdims=True)
    # Zeros like x, so that the indices are sharded over devices as x is.
    indices = lax.broadcasted_iota(argmax.dtype, x.shape, 1) + jnp.zeros_like(x, argmax.dtype)
    first = indices == argmax

    def at_argmax(values: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(first, values, jnp.zeros_like(values)), 1)

    return at_argmax(x), at_argmax(tangent)
