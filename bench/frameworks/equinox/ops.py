"""Equinox's layers: one example a module, channels first, under ``jax.vmap``."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ...ops.conv import geometry
from ...ops.norm import EPSILON
from ...ops.pool import window
from ...row import Row
from ..jax_op import JaxOp, stacked
from . import layout

LACKS = {
    "simple_rnn": "equinox has no plain recurrent cell",
    "attention": "equinox has attention only with its projections",
}
Run = Callable[[Any, Any], Any]
KEY = jax.random.key(0)


def module(built: Any, run: Run = lambda module, x: jax.vmap(module)(x), **options: Any) -> JaxOp:
    """A row from a module; ``run(module, x)`` applies it to a batch."""
    params, static = eqx.partition(built, eqx.is_inexact_array)
    return JaxOp(lambda params, x: run(eqx.combine(params, static), x), filling(params), **options)


def filling(params: Any) -> Callable[[Any], Any]:
    """The conversion of weights to a module with those arrays for attributes."""

    def convert(weights: Any) -> Any:
        own = layout(weights)
        if not own:
            return params
        # The bias of a convolution has an axis of size one for each spatial one.
        values = [value.reshape(getattr(params, name).shape) for name, value in own.items()]
        return eqx.tree_at(lambda tree: [getattr(tree, name) for name in own], params, values)

    return convert


def conv(row: Row) -> JaxOp:
    g = geometry(row)
    shape = (g.rank, g.channels, g.features, g.kernel, g.strides, g.padding, g.dilation, g.groups)
    built = eqx.nn.Conv(*shape, use_bias=g.bias, dtype=row.dtype, key=KEY)
    return module(built, channels_first=True)


def conv_transpose(row: Row) -> JaxOp:
    g = geometry(row)
    shape = (g.rank, g.channels, g.features, g.kernel, g.strides, row["padding"])
    built = eqx.nn.ConvTranspose(*shape, dtype=row.dtype, key=KEY)
    return module(built, channels_first=True)


def pool(kind: str, row: Row) -> JaxOp:
    w = window(row)
    make = getattr(eqx.nn, f"{kind}Pool{len(w.window)}d")
    return module(make(w.window, w.strides, w.padding), channels_first=True)


def avg_pool(row: Row) -> JaxOp:
    # Padding counts as zeros there; where it must not, users divide it out again.
    made = pool("Avg", row)
    if not any(window(row).padding):
        return made
    ones = np.ones((1, 1, *row.x[1:-1]), row.dtype)

    def apply(params: Any, x: Any) -> Any:
        return made.apply(params, x) / made.apply(params, jnp.asarray(ones))

    return made._replace(apply=apply)


def mapped(axes: int) -> Run:
    """Maps a module that takes one vector, or id, over ``axes`` axes."""

    def run(module: Any, x: Any) -> Any:
        for _ in range(axes):
            module = jax.vmap(module)
        return module(x)

    return run


def over_last(make: Callable[..., Any], row: Row) -> JaxOp:
    built = make(row.x[-1], eps=EPSILON, dtype=row.dtype)
    return module(built, mapped(len(row.x) - 1))


def group_norm(row: Row) -> JaxOp:
    built = eqx.nn.GroupNorm(row["groups"], row.x[-1], eps=EPSILON, dtype=row.dtype)
    return module(built, channels_first=True)


def batch_norm(row: Row) -> JaxOp:
    make = eqx.nn.make_with_state(eqx.nn.BatchNorm)
    built, state = make(row.x[-1], "batch", eps=EPSILON, mode="batch", dtype=row.dtype)
    params, static = eqx.partition(built, eqx.is_inexact_array)

    def apply(params: Any, x: Any, state: Any) -> Any:
        norm = eqx.combine(params, static)
        return jax.vmap(norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)

    return JaxOp(apply, filling(params), extra=(state,), aux=True, channels_first=True)


def recurrent(make: Callable[..., Any], row: Row, channels: int, reverse: bool) -> JaxOp:
    is_lstm = make is eqx.nn.LSTMCell

    def run(cell: Any, x: Any) -> Any:
        def step(carry: Any, value: Any) -> Any:
            carry = cell(value, carry)
            return carry, carry[0] if is_lstm else carry

        def sequence(steps: Any) -> Any:
            zeros = jnp.zeros(row["features"], x.dtype)
            start = (zeros, zeros) if is_lstm else zeros
            return jax.lax.scan(step, start, steps, reverse=reverse)[1]

        return jax.vmap(sequence)(x)

    return module(make(channels, row["features"], dtype=row.dtype, key=KEY), run)


def dense(row: Row) -> JaxOp:
    built = eqx.nn.Linear(row.x[-1], row["features"], dtype=row.dtype, key=KEY)
    return module(built, mapped(len(row.x) - 1))


def embedding(row: Row) -> JaxOp:
    table = jnp.zeros((row["vocabulary"], row["features"]), row.dtype)
    return module(eqx.nn.Embedding(weight=table), mapped(len(row.x)))


def dropout(row: Row) -> JaxOp:
    mapped = jax.vmap(lambda x, key: eqx.nn.Dropout(row["rate"])(x, key=key))
    return JaxOp(lambda p, x, key: mapped(x, jax.random.split(key, len(x))), extra=(KEY,))


OPS: dict[str, Callable[[Row], JaxOp]] = {
    "dense": dense,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": partial(pool, "Max"),
    "avg_pool": avg_pool,
    "batch_norm": batch_norm,
    "layer_norm": partial(over_last, eqx.nn.LayerNorm),
    "group_norm": group_norm,
    "rms_norm": partial(over_last, partial(eqx.nn.RMSNorm, use_bias=False)),
    "lstm": partial(stacked, partial(recurrent, eqx.nn.LSTMCell)),
    "gru": partial(stacked, partial(recurrent, eqx.nn.GRUCell)),
    "embedding": embedding,
    "dropout": dropout,
}
