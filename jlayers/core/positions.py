"""Positions of steps: as numbers, and as waves of many lengths."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .dtypes import at_least_float32


def positions_from_mask(mask: jax.Array, start: jax.Array | None = None) -> jax.Array:
    """The position of each step: how many valid steps of its row precede it.

    Args:
      mask: bools (batch, T), True for valid steps.
      start: how many steps preceded the first one, int32 (batch,); none if None.

    Returns:
      int32 (batch, T).

    >>> import jax.numpy as jnp, jlayers as jl
    >>> jl.core.positions_from_mask(jnp.array([[True, False, True, True]])).tolist()
    [[0, 1, 1, 2]]
    """
    valid = mask.astype(jnp.int32)
    # The step itself is taken off again: a cumulative sum includes it.
    positions = jnp.cumsum(valid, 1, dtype=jnp.int32) - valid
    if start is None:
        return positions
    return positions + jnp.broadcast_to(start[:, None], positions.shape)


def sinusoids(positions: jax.Array, features: int, base: float = 10000.0) -> jax.Array:
    """Sines and cosines of positions, at wavelengths from 2 pi to ``2 pi base``.

    With ``theta_i = position * base ** (-2 i / features)``, the first half of the features is
    ``sin(theta_i)`` and the second half ``cos(theta_i)`` (Vaswani et al., 2017, arXiv:1706.03762,
    who interleave them: another order of the features, which a dense layer cannot tell apart).

    Args:
      positions: integers, of any shape.
      features: even.
      base: the larger it is, the longer the longest wave.

    Returns:
      float32 (..., features), float64 where JAX's default is that.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> waves = jl.core.sinusoids(jnp.arange(2), 2)
    >>> bool(jnp.allclose(waves, jnp.array([[0, 1], [jnp.sin(1.0), jnp.cos(1.0)]])))
    True
    """
    # Not in a narrow dtype: bfloat16 has no integers above 256, and positions are larger.
    wide = at_least_float32(jnp.zeros(0).dtype)
    half = features // 2
    frequencies = jnp.asarray(base, wide) ** (-jnp.arange(half, dtype=wide) / half)
    shape = (*positions.shape, half)
    angles = jnp.broadcast_to(positions[..., None].astype(wide), shape)
    angles = angles * jnp.broadcast_to(frequencies, shape)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
