"""The elementwise parts of gated cells, of ``lax`` alone: ``jnp`` makes programs in the program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..dtypes import is_sharded
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


class GateAxis(NamedTuple):
    """How the gates of H units lie in an array: side by side, (..., gates H), or apart.

    Attributes:
      apart: whether they have an axis of their own, (..., gates, H).
    """

    apart: bool

    def split(self, values: jax.Array, count: int) -> Sequence[jax.Array]:
        """Each gate, (..., H)."""
        if not self.apart:
            return split(values, count)
        axis = values.ndim - 2
        return [lax.index_in_dim(values, i, axis, keepdims=False) for i in range(count)]

    def without_last(self, values: jax.Array) -> tuple[jax.Array, jax.Array]:
        """All gates but the last as they lie, and the last, of three."""
        if self.apart:
            return values[..., :-1, :], values[..., -1, :]
        first, last = jnp.split(values, [values.shape[-1] // 3 * 2], axis=-1)
        return first, last

    def join(self, values: jax.Array) -> jax.Array:
        """(..., gates, H) as they lie."""
        return values if self.apart else flat(values)

    def spread(self, numbers: Sequence[float], like: jax.Array) -> jax.Array:
        """A number for each gate, of the shape and the dtype of ``like``."""
        each = 1 if self.apart else like.shape[-1] // len(numbers)
        row = np.repeat(numbers, each).astype(like.dtype)
        return lax.broadcast_in_dim(row, like.shape, (like.ndim - 1 - self.apart,))


def on_mesh(
    features: int, *weights: jax.Array | None, may: bool = True
) -> tuple[GateAxis, list[Any]]:
    """How gates lie, and the weights (..., gates H): apart where a mesh may split them.

    A mesh that splits gates which are apart splits the units, so that a step is computed on the
    devices that have its units. Side by side each device would have whole gates, and no unit of
    which it has all gates: it would ask for them at each step.

    Args:
      features: H.
      weights: kernels and biases, or None for those that are not there.
      may: False to leave them side by side.
    """
    apart = may and any(w is not None and is_sharded(w) for w in weights)
    if not apart:
        return GateAxis(False), list(weights)
    return GateAxis(True), [None if w is None else _apart(w, features) for w in weights]


def _apart(values: jax.Array, features: int) -> jax.Array:
    # By slices and not by ``reshape``, by which XLA would split the axis of the gates.
    return stack(split(values, values.shape[-1] // features))


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
