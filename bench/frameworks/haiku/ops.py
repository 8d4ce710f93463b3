"""Haiku's layers, as its users write them: functions of modules, transformed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import haiku as hk
import jax
import numpy as np

from ...ops.conv import geometry
from ...ops.norm import EPSILON
from ...ops.pool import window
from ...row import Row
from .. import Unavailable
from ..jax_op import JaxOp, stacked
from . import layout

LACKS = {
    "gru": "haiku's GRU resets before the product: another function",
    "simple_rnn": "haiku's VanillaRNN is fixed to relu: another function",
    "attention": "haiku has attention only with its projections",
}


def module(function: Callable[[Any], Any], name: str, convert: Any = layout) -> JaxOp:
    """A function of x with one module in it, whose path is ``name``."""
    pure = hk.without_apply_rng(hk.transform(function))
    return JaxOp(pure.apply, lambda weights: {name: convert(weights)})


def conv(row: Row) -> JaxOp:
    g = geometry(row)
    shape = (g.rank, g.features, g.kernel, g.strides, g.dilation, g.pairs)
    options = {"with_bias": g.bias, "feature_group_count": g.groups}
    return module(lambda x: hk.ConvND(*shape, **options, name="conv")(x), "conv")


def conv_transpose(row: Row) -> JaxOp:
    g = geometry(row)
    shape, options = (g.rank, g.features, g.kernel, g.strides), {"padding": row["padding"]}

    def convert(weights: Any) -> Any:
        return {"w": np.swapaxes(weights["kernel"], -1, -2), "b": weights["bias"]}

    return module(lambda x: hk.ConvNDTranspose(*shape, **options, name="conv")(x), "conv", convert)


def pool(make: Callable[..., Any], row: Row) -> JaxOp:
    w = window(row)
    sizes, strides = (*w.window, 1), (*w.strides, 1)
    if any(w.padding):
        raise Unavailable("haiku's pools take no padding but SAME and VALID")
    pure = hk.without_apply_rng(hk.transform(lambda x: make(x, sizes, strides, "VALID")))
    return JaxOp(pure.apply)


def norm(make: Callable[..., Any], row: Row) -> JaxOp:
    return module(lambda x: make(row)(x), "norm")


def batch_norm(row: Row) -> JaxOp:
    def function(x: Any) -> Any:
        return hk.BatchNorm(True, True, 0.99, EPSILON, name="norm")(x, is_training=True)

    pure = hk.without_apply_rng(hk.transform_with_state(function))
    like = jax.ShapeDtypeStruct(row.x, row.dtype)
    _, shapes = jax.eval_shape(pure.init, jax.random.key(0), like)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    ones = (1,) * (len(row.x) - 1)

    def convert(weights: Any) -> Any:
        own = layout(weights)
        return {"norm": {name: value.reshape(*ones, -1) for name, value in own.items()}}

    def apply(params: Any, x: Any, state: Any) -> Any:
        return pure.apply(params, state, x)

    return JaxOp(apply, convert, extra=(state,), aux=True)


def lstm(row: Row, channels: int, reverse: bool) -> JaxOp:
    def function(x: Any) -> Any:
        core = hk.LSTM(row["features"], name="lstm")
        start = jax.tree.map(lambda leaf: leaf.astype(x.dtype), core.initial_state(x.shape[0]))
        return hk.dynamic_unroll(core, x, start, time_major=False, reverse=reverse)[0]

    def convert(weights: Any) -> Any:
        return {path.removeprefix("linear/"): value for path, value in layout(weights).items()}

    return module(function, "lstm/linear", convert)


def dropout(row: Row) -> JaxOp:
    pure = hk.transform(lambda x: hk.dropout(hk.next_rng_key(), row["rate"], x))
    return JaxOp(lambda params, x, key: pure.apply({}, key, x), extra=(jax.random.key(0),))


OPS: dict[str, Callable[[Row], JaxOp]] = {
    "dense": lambda row: module(lambda x: hk.Linear(row["features"], name="linear")(x), "linear"),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": partial(pool, hk.max_pool),
    "avg_pool": partial(pool, hk.avg_pool),
    "batch_norm": batch_norm,
    "layer_norm": partial(norm, lambda row: hk.LayerNorm(-1, True, True, EPSILON, name="norm")),
    "group_norm": partial(norm, lambda row: hk.GroupNorm(row["groups"], eps=EPSILON, name="norm")),
    "rms_norm": partial(norm, lambda row: hk.RMSNorm(-1, EPSILON, name="norm")),
    "lstm": partial(stacked, lstm),
    "embedding": lambda row: module(
        lambda x: hk.Embed(row["vocabulary"], row["features"], name="embed")(x), "embed"
    ),
    "dropout": dropout,
}
