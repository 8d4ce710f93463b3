"""Affine maps of the last axis."""

from __future__ import annotations

import jax
from jax import lax


def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """``x @ kernel + bias`` over the last axis of ``x``.

    Args:
      x: (..., in).
      kernel: (in, out), of the dtype of ``x``.
      bias: (out,), or None.

    Returns:
      (..., out), of the dtype of ``x``.
    """
    y = lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
    return y if bias is None else add_bias(y, bias)


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """``y + bias`` with (features,) on the last axis; explicit, for strict rank promotion."""
    return y + lax.broadcast_in_dim(bias, y.shape, (y.ndim - 1,))
