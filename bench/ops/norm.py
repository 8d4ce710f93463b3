"""Batch, layer, group and RMS normalisation."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..row import Row
from .op import Op, Weights, normal

EPSILON = 1e-5


def _weights(row: Row, rng: np.random.Generator) -> Weights:
    shape = row.x[-1:]
    return {"scale": 1 + 0.1 * normal(rng, shape), "bias": normal(rng, shape)}


def _scale_alone(row: Row, rng: np.random.Generator) -> Weights:
    return {"scale": _weights(row, rng)["scale"]}


def _normalised(x: Any, axes: tuple[int, ...]) -> Any:
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / jnp.sqrt(var + EPSILON)


def _batch(row: Row, weights: Weights, x: Any) -> Any:
    y = _normalised(x, tuple(range(x.ndim - 1)))
    return y * weights["scale"] + weights["bias"]


def _layer(row: Row, weights: Weights, x: Any) -> Any:
    return _normalised(x, (-1,)) * weights["scale"] + weights["bias"]


def _group(row: Row, weights: Weights, x: Any) -> Any:
    parts = x.reshape(x.shape[0], -1, row["groups"], x.shape[-1] // row["groups"])
    y = _normalised(parts, (1, 3)).reshape(x.shape)
    return y * weights["scale"] + weights["bias"]


def _rms(row: Row, weights: Weights, x: Any) -> Any:
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * weights["scale"]


BATCH_NORM = Op(_weights, _batch)
LAYER_NORM = Op(_weights, _layer)
GROUP_NORM = Op(_weights, _group)
RMS_NORM = Op(_scale_alone, _rms)
