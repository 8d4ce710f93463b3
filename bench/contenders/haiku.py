"""Haiku, as its users write it: functions of modules, transformed."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import numpy as np

from ..ops.conv import geometry, separable_parts, transposed_geometry
from ..ops.norm import EPSILON
from ..ops.pool import window
from ..row import Row
from .contender import Contender, Unavailable, chain, no_weights, stacked

LACKS = {
    "gru": "haiku's GRU resets before the product: another function",
    "simple_rnn": "haiku's VanillaRNN is fixed to relu: another function",
    "attention": "haiku has attention only with its projections",
}


def module(function: Callable[[Any], Any], name: str, convert: Callable[[Any], Any]) -> Contender:
    """A function of x with one module in it, whose path is ``name``."""
    pure = hk.without_apply_rng(hk.transform(function))
    return Contender(pure.apply, lambda weights: {name: convert(weights)})


def renamed(**names: str) -> Callable[[Any], dict[str, Any]]:
    """Ours by their names, those that are there."""
    return lambda weights: {
        theirs: weights[ours] for theirs, ours in names.items() if ours in weights
    }


def conv(row: Row) -> Contender:
    g = geometry(row)

    def function(x: Any) -> Any:
        return hk.ConvND(
            g.rank,
            g.features,
            g.kernel,
            g.strides,
            g.dilation,
            g.pairs,
            with_bias=g.bias,
            feature_group_count=g.groups,
            name="conv",
        )(x)

    return module(function, "conv", renamed(w="kernel", b="bias"))


def conv_transpose(row: Row) -> Contender:
    g = transposed_geometry(row)

    def function(x: Any) -> Any:
        return hk.ConvNDTranspose(
            g.rank, g.features, g.kernel, g.strides, padding=row["padding"], name="conv"
        )(x)

    def convert(weights: Any) -> dict[str, Any]:
        return {"w": np.swapaxes(weights["kernel"], -1, -2), "b": weights["bias"]}

    return module(function, "conv", convert)


def pool(make: Callable[..., Any]) -> Callable[[Row], Contender]:
    def build(row: Row) -> Contender:
        w = window(row)
        sizes, strides = (*w.window, 1), (*w.strides, 1)
        if any(w.padding):
            raise Unavailable("haiku's pools take no padding but SAME and VALID")
        pure = hk.without_apply_rng(hk.transform(lambda x: make(x, sizes, strides, "VALID")))
        return Contender(pure.apply, no_weights)

    return build


def norm(make: Callable[..., Any]) -> Callable[[Row], Contender]:
    def build(row: Row) -> Contender:
        names = renamed(scale="scale", offset="bias")
        return module(lambda x: make(row)(x), "norm", names)

    return build


def batch_norm(row: Row) -> Contender:
    def function(x: Any) -> Any:
        return hk.BatchNorm(True, True, 0.99, EPSILON, name="norm")(x, is_training=True)

    pure = hk.without_apply_rng(hk.transform_with_state(function))
    like = jax.ShapeDtypeStruct(row.x, row.dtype)
    _, shapes = jax.eval_shape(pure.init, jax.random.key(0), like)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)

    def apply(params: Any, x: Any, state: Any) -> Any:
        return pure.apply(params, state, x)

    def convert(weights: Any) -> Any:
        rank = len(row.x)
        own = {"scale": weights["scale"], "offset": weights["bias"]}
        return {
            "norm": {name: value.reshape((1,) * (rank - 1) + (-1,)) for name, value in own.items()}
        }

    return Contender(apply, convert, extra=(state,), aux=True)


def lstm(row: Row) -> Contender:
    def one(row: Row, channels: int, reverse: bool) -> Contender:
        def function(x: Any) -> Any:
            core = hk.LSTM(row["features"], name="lstm")
            start = jax.tree.map(lambda leaf: leaf.astype(x.dtype), core.initial_state(x.shape[0]))
            return hk.dynamic_unroll(core, x, start, time_major=False, reverse=reverse)[0]

        def convert(w: Any) -> Any:
            both = np.concatenate([w["kernel"], w["recurrent_kernel"]])
            return {"w": igfo(both), "b": igfo(w["bias"] - w["forget_one"])}

        return module(function, "lstm/linear", convert)

    return stacked(one, row)


def igfo(value: Any) -> Any:
    """Their order of the gates."""
    i, f, g, o = np.split(value, 4, axis=-1)
    return np.concatenate([i, g, f, o], axis=-1)


def embedding(row: Row) -> Contender:
    def function(ids: Any) -> Any:
        return hk.Embed(row["vocabulary"], row["features"], name="embed")(ids)

    return module(function, "embed", renamed(embeddings="embedding"))


def dropout(row: Row) -> Contender:
    pure = hk.transform(lambda x: hk.dropout(hk.next_rng_key(), row["rate"], x))

    def apply(params: Any, x: Any, key: Any) -> Any:
        return pure.apply({}, key, x)

    return Contender(apply, no_weights, extra=(jax.random.key(0),))


OPS = {
    "dense": lambda row: module(
        lambda x: hk.Linear(row["features"], name="linear")(x),
        "linear",
        renamed(w="kernel", b="bias"),
    ),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "separable": lambda row: chain(*map(conv, separable_parts(row))),
    "max_pool": pool(hk.max_pool),
    "avg_pool": pool(hk.avg_pool),
    "batch_norm": batch_norm,
    "layer_norm": norm(lambda row: hk.LayerNorm(-1, True, True, EPSILON, name="norm")),
    "group_norm": norm(lambda row: hk.GroupNorm(row["groups"], eps=EPSILON, name="norm")),
    "rms_norm": norm(lambda row: hk.RMSNorm(-1, EPSILON, name="norm")),
    "lstm": lstm,
    "embedding": embedding,
    "dropout": dropout,
}
