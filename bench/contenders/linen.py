"""Flax linen, as its users write it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from ..ops.conv import geometry, separable_parts, transposed_geometry
from ..ops.norm import EPSILON
from ..ops.pool import window
from ..row import Row
from .contender import Contender, chain, no_weights, pick, stacked

LACKS: dict[str, str] = {}


def dtypes(row: Row) -> dict[str, str]:
    return {"dtype": row.dtype, "param_dtype": row.dtype}


def module(built: nn.Module, *names: str) -> Contender:
    def apply(params: Any, x: Any) -> Any:
        return built.apply({"params": params}, x)

    return Contender(apply, pick(*(names or ("kernel", "bias"))))


def conv(row: Row) -> Contender:
    g = geometry(row)
    return module(
        nn.Conv(
            g.features,
            g.kernel,
            g.strides,
            g.pairs,
            kernel_dilation=g.dilation,
            feature_group_count=g.groups,
            use_bias=g.bias,
            **dtypes(row),
        )
    )


def conv_transpose(row: Row) -> Contender:
    g = transposed_geometry(row)
    return module(nn.ConvTranspose(g.features, g.kernel, g.strides, row["padding"], **dtypes(row)))


def pool(function: Callable[..., Any], **options: Any) -> Callable[[Row], Contender]:
    def make(row: Row) -> Contender:
        w = window(row)

        def apply(params: Any, x: Any) -> Any:
            return function(x, w.window, w.strides, w.pairs, **options)

        return Contender(apply, no_weights)

    return make


def batch_norm(row: Row) -> Contender:
    built = nn.BatchNorm(use_running_average=False, epsilon=EPSILON, **dtypes(row))
    shapes = jax.ShapeDtypeStruct(row.x, row.dtype)
    variables = jax.eval_shape(built.init, jax.random.key(0), shapes)["batch_stats"]
    running = {
        name: np.full(like.shape, name == "var", like.dtype) for name, like in variables.items()
    }

    def apply(params: Any, x: Any, running: Any) -> Any:
        return built.apply({"params": params, "batch_stats": running}, x, mutable=["batch_stats"])

    return Contender(apply, pick("scale", "bias"), extra=(running,), aux=True)


def by_gate(cell: Callable[..., Any], convert: Callable[[Any], Any]) -> Callable[[Row], Contender]:
    def one(row: Row, channels: int, reverse: bool) -> Contender:
        rnn = nn.RNN(cell(row["features"], **dtypes(row)), reverse=reverse, keep_order=True)
        return module(rnn)._replace(convert=lambda weights: {"cell": convert(weights)})

    return functools.partial(stacked, one)


def split(value: Any, prefix: str, gates: str, entry: str) -> dict[str, Any]:
    parts = np.split(value, len(gates), axis=-1)
    return {prefix + gate: {entry: part} for gate, part in zip(gates, parts, strict=True)}


def joined(*trees: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for tree in trees:
        for name, entries in tree.items():
            result.setdefault(name, {}).update(entries)
    return result


def lstm_weights(w: Any) -> Any:
    return joined(
        split(w["kernel"], "i", "ifgo", "kernel"),
        split(w["recurrent_kernel"], "h", "ifgo", "kernel"),
        split(w["bias"], "h", "ifgo", "bias"),
    )


def gru_weights(w: Any) -> Any:
    return joined(
        split(w["kernel"], "i", "rzn", "kernel"),
        split(w["recurrent_kernel"], "h", "rzn", "kernel"),
        split(w["bias"], "i", "rzn", "bias"),
        {"hn": {"bias": w["recurrent_bias"]}},
    )


def simple_weights(w: Any) -> Any:
    return {"i": pick("kernel", "bias")(w), "h": {"kernel": w["recurrent_kernel"]}}


def attention(row: Row) -> Contender:
    batch, steps, *_ = row.x

    def apply(params: Any, x: Any) -> Any:
        mask = nn.make_causal_mask(np.ones((batch, steps), bool)) if row["causal"] else None
        return nn.dot_product_attention(*x, mask=mask)

    return Contender(apply, no_weights)


def dropout(row: Row) -> Contender:
    built = nn.Dropout(row["rate"], deterministic=False)

    def apply(params: Any, x: Any, key: Any) -> Any:
        return built.apply({}, x, rngs={"dropout": key})

    return Contender(apply, no_weights, extra=(jax.random.key(0),))


OPS = {
    "dense": lambda row: module(nn.Dense(row["features"], **dtypes(row))),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "separable": lambda row: chain(*map(conv, separable_parts(row))),
    "max_pool": pool(nn.max_pool),
    "avg_pool": pool(nn.avg_pool, count_include_pad=False),
    "batch_norm": batch_norm,
    "layer_norm": lambda row: module(nn.LayerNorm(epsilon=EPSILON, **dtypes(row)), "scale", "bias"),
    "group_norm": lambda row: module(
        nn.GroupNorm(row["groups"], epsilon=EPSILON, **dtypes(row)), "scale", "bias"
    ),
    "rms_norm": lambda row: module(nn.RMSNorm(epsilon=EPSILON, **dtypes(row)), "scale"),
    "lstm": by_gate(nn.OptimizedLSTMCell, lstm_weights),
    "gru": by_gate(nn.GRUCell, gru_weights),
    "simple_rnn": by_gate(nn.SimpleCell, simple_weights),
    "attention": attention,
    "embedding": lambda row: module(
        nn.Embed(row["vocabulary"], row["features"], **dtypes(row)), "embedding"
    ),
    "dropout": dropout,
}
