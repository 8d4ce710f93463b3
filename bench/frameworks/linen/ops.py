"""Flax linen's layers, as its users write them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from ...ops.conv import geometry
from ...ops.norm import EPSILON
from ...ops.pool import window
from ...row import Row
from ..jax_op import JaxOp, stacked
from ..weights import nested
from . import layout


def dtypes(row: Row) -> dict[str, str]:
    return {"dtype": row.dtype, "param_dtype": row.dtype}


def module(built: nn.Module) -> JaxOp:
    return JaxOp(lambda params, x: built.apply({"params": params}, x))


def conv(row: Row) -> JaxOp:
    g = geometry(row)
    options = {"kernel_dilation": g.dilation, "feature_group_count": g.groups, **dtypes(row)}
    return module(nn.Conv(g.features, g.kernel, g.strides, g.pairs, use_bias=g.bias, **options))


def conv_transpose(row: Row) -> JaxOp:
    g = geometry(row)
    return module(nn.ConvTranspose(g.features, g.kernel, g.strides, row["padding"], **dtypes(row)))


def pool(function: Callable[..., Any], **options: Any) -> Callable[[Row], JaxOp]:
    def op(row: Row) -> JaxOp:
        w = window(row)
        return JaxOp(lambda params, x: function(x, w.window, w.strides, w.pairs, **options))

    return op


def batch_norm(row: Row) -> JaxOp:
    built = nn.BatchNorm(use_running_average=False, epsilon=EPSILON, **dtypes(row))
    shapes = jax.ShapeDtypeStruct(row.x, row.dtype)
    variables = jax.eval_shape(built.init, jax.random.key(0), shapes)["batch_stats"]
    running = {name: np.full(x.shape, name == "var", x.dtype) for name, x in variables.items()}

    def apply(params: Any, x: Any, running: Any) -> Any:
        return built.apply({"params": params, "batch_stats": running}, x, mutable=["batch_stats"])

    return JaxOp(apply, extra=(running,), aux=True)


def recurrent(cell: Callable[..., Any]) -> Callable[[Row], JaxOp]:
    def one(row: Row, channels: int, reverse: bool) -> JaxOp:
        rnn = nn.RNN(cell(row["features"], **dtypes(row)), reverse=reverse, keep_order=True)
        return module(rnn)._replace(convert=lambda weights: {"cell": nested(layout(weights))})

    return functools.partial(stacked, one)


def attention(row: Row) -> JaxOp:
    batch, steps, *_ = row.x

    def apply(params: Any, x: Any) -> Any:
        mask = nn.make_causal_mask(np.ones((batch, steps), bool)) if row["causal"] else None
        return nn.dot_product_attention(*x, mask=mask)

    return JaxOp(apply)


def dropout(row: Row) -> JaxOp:
    built, key = nn.Dropout(row["rate"], deterministic=False), jax.random.key(0)
    return JaxOp(lambda params, x, key: built.apply({}, x, rngs={"dropout": key}), extra=(key,))


def norm(make: Callable[..., nn.Module]) -> Callable[[Row], JaxOp]:
    def op(row: Row) -> JaxOp:
        groups = {"num_groups": row["groups"]} if "groups" in row.options else {}
        return module(make(epsilon=EPSILON, **groups, **dtypes(row)))

    return op


OPS: dict[str, Callable[[Row], JaxOp]] = {
    "dense": lambda row: module(nn.Dense(row["features"], **dtypes(row))),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": pool(nn.max_pool),
    "avg_pool": pool(nn.avg_pool, count_include_pad=False),
    "batch_norm": batch_norm,
    "layer_norm": norm(nn.LayerNorm),
    "group_norm": norm(nn.GroupNorm),
    "rms_norm": norm(nn.RMSNorm),
    "lstm": recurrent(nn.OptimizedLSTMCell),
    "gru": recurrent(nn.GRUCell),
    "simple_rnn": recurrent(nn.SimpleCell),
    "attention": attention,
    "embedding": lambda row: module(nn.Embed(row["vocabulary"], row["features"], **dtypes(row))),
    "dropout": dropout,
}
