"""Positions of steps, and rotary embeddings of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..dtypes import at_least_float32


def step_positions(mask: jax.Array, before: jax.Array | None = None) -> jax.Array:
    """How many valid steps of its row lie before each step, (batch, T) int32.

    Args:
      mask: bools (batch, T), True for valid steps.
      before: how many there were before the first, int32 (batch,); none if None.
    """
    here = mask.astype(jnp.int32)
    places = jnp.cumsum(here, 1, dtype=jnp.int32) - here
    return places if before is None else places + jnp.broadcast_to(before[:, None], places.shape)


def rotary(x: jax.Array, positions: jax.Array, base: float = 10000.0) -> jax.Array:
    """Rotates pairs of features by angles that grow with the position.

    Feature i of the first half and feature i of the second one are a pair, as in GPT-NeoX and
    Llama, turned by ``position * base ** (-2 i / size)`` (Su et al., 2021, arXiv:2104.09864). So
    the product of a query and a key depends on their distance alone. Angles are float32 at least.

    Args:
      x: (batch, T, heads, size), ``size`` even.
      positions: int32 (T,), or (batch, T).
      base: the larger, the slower the slowest pair turns.

    Returns:
      Like ``x``.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([1.0, 0.0]).reshape(1, 1, 1, 2)
    >>> turned = jl.core.rotary(x, jnp.array([1], jnp.int32)).ravel()
    >>> bool(jnp.allclose(turned, jnp.array([jnp.cos(1.0), jnp.sin(1.0)])))
    True
    """
    wide = at_least_float32(x.dtype)
    half = x.shape[-1] // 2
    speeds = jnp.asarray(base, wide) ** (-jnp.arange(half, dtype=wide) / half)
    shape = (*positions.shape, half)
    angles = jnp.broadcast_to(positions[..., None].astype(wide), shape)
    angles = angles * jnp.broadcast_to(speeds, shape)
    turned = (x.shape[0], x.shape[1], x.shape[2], half)
    cos, sin = (
        jnp.broadcast_to(a[..., None, :], turned) for a in (jnp.cos(angles), jnp.sin(angles))
    )
    first, second = x[..., :half].astype(wide), x[..., half:].astype(wide)
    parts = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(parts, -1).astype(x.dtype)
