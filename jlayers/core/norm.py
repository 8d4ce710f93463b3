"""Statistics and normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from .dtypes import at_least_float32


def batch_statistics(x: jax.Array, axes: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance over ``axes``, kept as axes of size 1.

    Computed in float32 at least, the variance from the centred values: the difference of two
    large means would lose it.

    Args:
      x: an array.
      axes: axes to reduce.

    Returns:
      (mean, variance), of ``x``'s rank, float32 or wider.
    """
    wide = x.astype(at_least_float32(x.dtype))
    mean = jnp.mean(wide, axes, keepdims=True)
    centred = wide - jnp.broadcast_to(mean, wide.shape)
    return mean, jnp.mean(lax.square(centred), axes, keepdims=True)


def normalize(
    x: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
) -> jax.Array:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias``.

    Args:
      x: an array.
      mean, variance: of ``x``'s rank, with size 1 on the axes that they were taken over.
      scale, bias: of ``x``'s rank and broadcast over the axes of size 1, or None.
      epsilon: keeps the root from zero.

    Returns:
      An array like ``x``; the arithmetic is done in the dtype of the statistics.
    """
    factor = lax.rsqrt(variance + epsilon)
    y = x.astype(mean.dtype) - jnp.broadcast_to(mean, x.shape)
    y = y * jnp.broadcast_to(factor, x.shape)
    if scale is not None:
        y = y * jnp.broadcast_to(scale.astype(y.dtype), x.shape)
    if bias is not None:
        y = y + jnp.broadcast_to(bias.astype(y.dtype), x.shape)
    return y.astype(x.dtype)


def rms_normalize(x: jax.Array, scale: jax.Array | None, epsilon: float) -> jax.Array:
    """``x / sqrt(mean(x ** 2) + epsilon) * scale`` over the last axis, in float32 at least.

    Args:
      x: (..., features).
      scale: (features,), or None.
      epsilon: keeps the root from zero.

    Returns:
      An array like ``x``.
    """
    wide = x.astype(at_least_float32(x.dtype))
    factor = lax.rsqrt(jnp.mean(lax.square(wide), -1, keepdims=True) + epsilon)
    y = wide * jnp.broadcast_to(factor, x.shape)
    if scale is not None:
        y = y * lax.broadcast_in_dim(scale.astype(y.dtype), x.shape, (x.ndim - 1,))
    return y.astype(x.dtype)
