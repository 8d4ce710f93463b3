"""Flax linen's layers, as its users write them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from ...ops.attention import hides_more, visible
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


def pool(function: Callable[..., Any], row: Row) -> JaxOp:
    w = window(row)
    return JaxOp(lambda params, x: function(x, w.window, w.strides, w.pairs))


def batch_norm(row: Row) -> JaxOp:
    built = nn.BatchNorm(use_running_average=False, epsilon=EPSILON, **dtypes(row))
    features = row.x[-1]
    running = {"mean": np.zeros(features, np.float32), "var": np.ones(features, np.float32)}

    def apply(params: Any, x: Any, running: Any) -> Any:
        return built.apply({"params": params, "batch_stats": running}, x, mutable=["batch_stats"])

    return JaxOp(apply, extra=(running,), aux=True)


def recurrent(cell: Callable[..., Any], row: Row, channels: int, reverse: bool) -> JaxOp:
    rnn = nn.RNN(cell(row["features"], **dtypes(row)), reverse=reverse, keep_order=True)
    return module(rnn)._replace(convert=lambda weights: {"cell": nested(layout(weights))})


def attention(row: Row) -> JaxOp:
    batch, steps, *_ = row.x
    if hides_more(row):
        shown = (visible(row),)
        return JaxOp(lambda p, x, mask: nn.dot_product_attention(*x, mask=mask), extra=shown)

    def apply(params: Any, x: Any) -> Any:
        mask = nn.make_causal_mask(np.ones((batch, steps), bool)) if row["causal"] else None
        return nn.dot_product_attention(*x, mask=mask)

    return JaxOp(apply)


def dropout(row: Row) -> JaxOp:
    built, key = nn.Dropout(row["rate"], deterministic=False), jax.random.key(0)
    return JaxOp(lambda params, x, key: built.apply({}, x, rngs={"dropout": key}), extra=(key,))


def norm(make: Callable[..., nn.Module], row: Row) -> JaxOp:
    groups = {"num_groups": row["groups"]} if "groups" in row.options else {}
    return module(make(epsilon=EPSILON, **groups, **dtypes(row)))


OPS: dict[str, Callable[[Row], JaxOp]] = {
    "dense": lambda row: module(nn.Dense(row["features"], **dtypes(row))),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": partial(pool, nn.max_pool),
    "avg_pool": partial(pool, partial(nn.avg_pool, count_include_pad=False)),
    "batch_norm": batch_norm,
    "layer_norm": partial(norm, nn.LayerNorm),
    "group_norm": partial(norm, nn.GroupNorm),
    "rms_norm": partial(norm, nn.RMSNorm),
    "lstm": partial(stacked, partial(recurrent, nn.OptimizedLSTMCell)),
    "gru": partial(stacked, partial(recurrent, nn.GRUCell)),
    "simple_rnn": partial(stacked, partial(recurrent, nn.SimpleCell)),
    "attention": attention,
    "embedding": lambda row: module(nn.Embed(row["vocabulary"], row["features"], **dtypes(row))),
    "dropout": dropout,
}
