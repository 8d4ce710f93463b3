"""The elementwise parts of gated cells, of ``lax`` alone: ``jnp`` makes programs in the program."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..norm import scalar


def sigmoid(values: jax.Array) -> jax.Array:
    return sigmoid_of(lax.tanh(lax.mul(values, scalar(0.5, values))))


def sigmoid_of(squashed: jax.Array) -> jax.Array:
    """sigmoid(v) of tanh(v / 2)."""
    return lax.mul(lax.add(squashed, scalar(1, squashed)), scalar(0.5, squashed))


def one_less(values: jax.Array) -> jax.Array:
    return lax.sub(scalar(1, values), values)


def one_less_square(values: jax.Array) -> jax.Array:
    return one_less(lax.square(values))


def split(values: jax.Array, count: int) -> Sequence[jax.Array]:
    return lax.split(values, (values.shape[-1] // count,) * count, axis=values.ndim - 1)


def stack(parts: Sequence[jax.Array]) -> jax.Array:
    """(..., parts, H) of arrays (..., H)."""
    axis = parts[0].ndim - 1
    return lax.concatenate([lax.expand_dims(part, (axis,)) for part in parts], axis)


def repeat(values: jax.Array, times: int) -> jax.Array:
    """(..., times, H) of (..., H)."""
    shape = (*values.shape[:-1], times, values.shape[-1])
    return lax.broadcast_in_dim(values, shape, (*range(values.ndim - 1), values.ndim))


def select_part(index: int, chosen: jax.Array, others: jax.Array) -> jax.Array:
    """``chosen`` for the part of that index, of arrays (..., parts, H)."""
    # jnp.where, since it gives the condition the sharding of the values.
    parts = np.arange(others.shape[-2])[:, None]
    return jnp.where(parts == index, chosen, others)


def flat(values: jax.Array) -> jax.Array:
    """(..., parts H) of (..., parts, H)."""
    return lax.reshape(values, (*values.shape[:-2], values.shape[-2] * values.shape[-1]))
