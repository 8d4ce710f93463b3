"""Dense, embedding and dropout."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..row import Row
from .op import Op, Weights, no_weights, normal

# Dense


def _dense_weights(row: Row, rng: np.random.Generator) -> Weights:
    channels, features = row.x[-1], row["features"]
    return {"kernel": normal(rng, (channels, features), channels), "bias": normal(rng, (features,))}


def _dense(row: Row, weights: Weights, x: Any) -> Any:
    return x @ weights["kernel"] + weights["bias"]


DENSE = Op(_dense_weights, _dense, lambda row: 2 * math.prod(row.x) * row["features"])


# Embedding


def _embedding_traffic(row: Row) -> tuple[float, float]:
    """The rows that are looked up; with the gradient, also the whole table."""
    size = jnp.dtype(row.dtype).itemsize * row["features"]
    looked_up = 2 * size * math.prod(row.x)
    return looked_up, 2 * looked_up + size * row["vocabulary"]


EMBEDDING = Op(
    lambda row, rng: {"embedding": normal(rng, (row["vocabulary"], row["features"]))},
    lambda row, weights, x: weights["embedding"][x],
    inputs=lambda row, rng: rng.integers(0, row["vocabulary"], row.x, np.int32),
    traffic=_embedding_traffic,
)


# Dropout: which values are dropped is up to the framework; everything else follows from it.


def _judge(row: Row, x: Any, cotangent: Any, y: Any) -> tuple[Any, Any]:
    """The right results for the zeros of ``y``; NaN where there are too many or too few."""
    remaining = np.asarray(y, np.float64) != 0
    rate, count = row["rate"], remaining.size
    spread = math.sqrt(rate * (1 - rate) / count)
    fair = abs(remaining.mean() - (1 - rate)) <= 6 * spread
    factor = remaining / (1 - rate) if fair else np.full(remaining.shape, np.nan)
    return np.asarray(x, np.float64) * factor, np.asarray(cotangent, np.float64) * factor


DROPOUT = Op(no_weights, lambda row, weights, x: x, judge=_judge)
