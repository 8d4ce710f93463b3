"""What layers of positions share: their input, and a row for each step in its shape."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...base import arguments


def check_steps(x: jax.ShapeDtypeStruct) -> None:
    """Raises unless ``x`` is (batch, time, ..., features) of floating numbers."""
    shape = "(batch, time, ..., features)"
    arguments.one_array(x, shape, least_rank=3, lower="Embedding(...) before it, for ids")
    arguments.floating(x, "x.astype(jnp.float32); Embedding(...) before it, for ids")
    arguments.has_features(x, shape)


def over_features(rows: jax.Array, x: jax.Array) -> jax.Array:
    """Rows (batch, time, features) in the shape and the dtype of ``x``."""
    between = (1,) * (x.ndim - 3)
    rows = rows.reshape(*rows.shape[:2], *between, rows.shape[-1])
    return jnp.broadcast_to(rows.astype(x.dtype), x.shape)
