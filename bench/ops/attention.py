"""Scaled dot-product attention, causal or not, in a window, over rows of different lengths."""

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


def lengths(row: Row) -> np.ndarray:
    """How many keys each row of the batch has: from half of them to all, int32 (batch,)."""
    batch, steps = row.x[:2]
    return np.linspace((steps + 1) // 2, steps, batch).astype(np.int32)


def hides_more(row: Row) -> bool:
    """Whether a window or lengths hide keys, beside what is causal."""
    return bool(row.options.get("window") or row.options.get("lengths"))


def visible(row: Row) -> np.ndarray:
    """Whether a query attends to a key: bools (batch or 1, 1, steps or 1, steps)."""
    steps = row.x[1]
    at = np.arange(steps)
    back = at[:, None] - at
    shown = back >= 0 if row["causal"] else np.ones((1, steps), bool)
    if row.options.get("window"):
        shown = shown & (back < row["window"])
    shown = shown[None, None]
    if row.options.get("lengths"):
        shown = shown & (at < lengths(row)[:, None])[:, None, None]
    return shown


def _reference(row: Row, weights: Weights, x: Any) -> Any:
    q, k, v = x
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) / math.sqrt(q.shape[-1])
    if row["causal"] or hides_more(row):
        scores = jnp.where(visible(row), scores, -jnp.inf)
    return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(scores, -1), v)


def _flops(row: Row) -> float:
    batch, steps, heads, size = row.x
    pairs = np.broadcast_to(visible(row), (batch, 1, steps, steps)).sum()
    return 4 * heads * size * float(pairs)


ATTENTION = Op(no_weights, _reference, _flops, inputs=_inputs)
