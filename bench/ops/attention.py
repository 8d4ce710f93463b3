"""Scaled dot-product attention."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..row import Row
from .op import Op, Weights, no_weights


def _inputs(row: Row, rng: np.random.Generator) -> tuple[Any, ...]:
    """Queries, keys and values, each (B, T, N, H)."""
    return tuple(rng.standard_normal(row.x) for _ in range(3))


def _reference(row: Row, weights: Weights, x: Any) -> Any:
    q, k, v = x
    steps = q.shape[1]
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) / math.sqrt(q.shape[-1])
    if row["causal"]:
        visible = np.tril(np.ones((steps, steps), bool))
        scores = jnp.where(visible, scores, -jnp.inf)
    return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(scores, -1), v)


def _flops(row: Row) -> float:
    batch, steps, heads, size = row.x
    pairs = steps * (steps + 1) / 2 if row["causal"] else steps**2
    return 4 * batch * heads * size * pairs


ATTENTION = Op(no_weights, _reference, _flops, inputs=_inputs)
