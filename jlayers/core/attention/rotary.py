"""Rotary embeddings of positions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..dtypes import at_least_float32


def apply_rope(x: jax.Array, positions: jax.Array, base: float = 10000.0) -> jax.Array:
    """Rotary position embedding: rotates pairs of features by angles that grow with the position.

    With ``theta_i = position * base ** (-2 i / head_dim)``, feature i of the first half and feature
    i of the second half are a pair, as in GPT-NeoX and Llama::

        y_i        = x_i cos(theta_i) - x_half+i sin(theta_i)
        y_half+i   = x_half+i cos(theta_i) + x_i sin(theta_i)

    So the product of a query and a key depends on their distance alone (Su et al., 2021,
    arXiv:2104.09864). Angles are float32 at least.

    Args:
      x: (batch, T, num_heads, head_dim), ``head_dim`` even.
      positions: int32 (T,), or (batch, T).
      base: the larger it is, the more slowly the slowest pair rotates.

    Returns:
      An array like ``x``.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([1.0, 0.0]).reshape(1, 1, 1, 2)
    >>> y = jl.core.apply_rope(x, jnp.array([1], jnp.int32)).ravel()
    >>> bool(jnp.allclose(y, jnp.array([jnp.cos(1.0), jnp.sin(1.0)])))
    True
    """
    # Not in bfloat16: it has no integers above 256, and positions are larger.
    wide = at_least_float32(x.dtype)
    half = x.shape[-1] // 2
    frequencies = jnp.asarray(base, wide) ** (-jnp.arange(half, dtype=wide) / half)
    shape = (*positions.shape, half)
    angles = jnp.broadcast_to(positions[..., None].astype(wide), shape)
    angles = angles * jnp.broadcast_to(frequencies, shape)
    halves = (x.shape[0], x.shape[1], x.shape[2], half)
    cos, sin = (
        jnp.broadcast_to(a[..., None, :], halves) for a in (jnp.cos(angles), jnp.sin(angles))
    )
    first, second = x[..., :half].astype(wide), x[..., half:].astype(wide)
    # Halves and not neighbours: whole vectors are rotated, without a gather.
    parts = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(parts, -1).astype(x.dtype)
