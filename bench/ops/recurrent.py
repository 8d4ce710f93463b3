"""LSTM, GRU and the plain recurrence over whole sequences, in layers and both directions."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..row import Row
from .op import Op, Weights, normal

GATES = {"lstm": 4, "gru": 3, "simple_rnn": 1}


def layer_inputs(row: Row) -> list[int]:
    """The features that go into each layer."""
    directions = 2 if row["bidirectional"] else 1
    return [row.x[-1]] + [directions * row["features"]] * (row["layers"] - 1)


def _weights(row: Row, rng: np.random.Generator) -> Weights:
    """A tuple of layers, each a tuple with the cells of its directions."""
    directions = 2 if row["bidirectional"] else 1
    return tuple(
        tuple(_cell_weights(row, channels, rng) for _ in range(directions))
        for channels in layer_inputs(row)
    )


def _cell_weights(row: Row, channels: int, rng: np.random.Generator) -> Weights:
    """jlayers' parameters, and further ones that other frameworks have.

    ``second_bias`` is that of the recurrent product, where it would only add to ``bias``; it is
    zero. ``forget_one`` is what some add to the forget gate; no result depends on it.
    """
    h, gates = row["features"], GATES[row.op]
    weights = {
        "kernel": normal(rng, (channels, gates * h), channels),
        "recurrent_kernel": normal(rng, (h, gates * h), h),
        "bias": 0.1 * normal(rng, (gates * h,)),
        "second_bias": np.zeros(2 * h if row.op == "gru" else gates * h),
    }
    if row.op == "gru":
        weights["recurrent_bias"] = np.zeros(h)  # NNX has none, so it must be zero
    if row.op == "lstm":
        weights["forget_one"] = np.repeat([0.0, 1.0, 0.0, 0.0], h)
    return weights


def _step(op: str, w: Weights, carry: Any, x: Any) -> tuple[Any, Any]:
    h, c = carry
    projected, recurrent = x @ w["kernel"] + w["bias"], h @ w["recurrent_kernel"]
    if op == "simple_rnn":
        h = jnp.tanh(projected + recurrent + w["second_bias"])
    elif op == "lstm":
        i, f, g, o = jnp.split(projected + recurrent + w["second_bias"], 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
    else:
        size = h.shape[-1]
        both = recurrent[:, : 2 * size] + w["second_bias"]
        r, z = jnp.split(jax.nn.sigmoid(projected[:, : 2 * size] + both), 2, -1)
        candidate = recurrent[:, 2 * size :] + w["recurrent_bias"]
        h = (1 - z) * jnp.tanh(projected[:, 2 * size :] + r * candidate) + z * h
    return (h, c), h


def _one_direction(row: Row, weights: Weights, x: Any, reverse: bool) -> Any:
    zeros = jnp.zeros((x.shape[0], row["features"]), x.dtype)
    step = functools.partial(_step, row.op, weights)
    _, ys = lax.scan(step, (zeros, zeros), jnp.swapaxes(x, 0, 1), reverse=reverse)
    return jnp.swapaxes(ys, 0, 1)


def _reference(row: Row, weights: Weights, x: Any) -> Any:
    for cells in weights:
        ys = [_one_direction(row, cell, x, reverse=i == 1) for i, cell in enumerate(cells)]
        x = jnp.concatenate(ys, -1)
    return x


def _flops(row: Row) -> float:
    batch, steps, _ = row.x
    h, directions = row["features"], 2 if row["bidirectional"] else 1
    products = sum((channels + h) * GATES[row.op] * h for channels in layer_inputs(row))
    return 2 * batch * steps * directions * products


RECURRENT = Op(_weights, _reference, _flops)
