"""Flax NNX's layers; split before ``jax.jit`` and merged inside, its fastest way."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx

from ...ops.conv import geometry
from ...ops.norm import EPSILON
from ...row import Row
from ..jax_op import JaxOp, attention, stacked
from ..linen.ops import dtypes, pool
from ..weights import nested
from . import layout


def options(row: Row) -> dict[str, Any]:
    return {**dtypes(row), "rngs": nnx.Rngs(0)}


def module(
    built: Any, prefix: str = "", run: Callable[[Any, Any], Any] = lambda module, x: module(x)
) -> JaxOp:
    """A row from a module; ``prefix`` is the path of the attribute with the parameters."""
    graphdef, params, rest = nnx.split(built, nnx.Param, ...)

    def convert(weights: Any) -> Any:
        state = jax.tree.map(lambda value: value, params)
        own = {prefix + name: value for name, value in layout(weights).items()}
        nnx.replace_by_pure_dict(state, nested(own))
        return state

    if not jax.tree.leaves(rest):
        return JaxOp(lambda params, x: run(nnx.merge(graphdef, params, rest), x), convert)

    def apply(params: Any, x: Any, rest: Any) -> Any:
        # A copy: what comes from outside of the differentiated function cannot be changed in it.
        merged = nnx.merge(graphdef, params, rest, copy=True)
        y = merged(x)
        return y, nnx.state(merged, nnx.Not(nnx.Param))

    return JaxOp(apply, convert, extra=(rest,), aux=True)


def conv(row: Row) -> JaxOp:
    g = geometry(row)
    shape = {"padding": g.pairs, "kernel_dilation": g.dilation, "feature_group_count": g.groups}
    own = {**shape, "use_bias": g.bias, **options(row)}
    return module(nnx.Conv(g.channels, g.features, g.kernel, g.strides, **own))


def conv_transpose(row: Row) -> JaxOp:
    g = geometry(row)
    own = {"padding": row["padding"], **options(row)}
    return module(nnx.ConvTranspose(g.channels, g.features, g.kernel, g.strides, **own))


def norm(make: Callable[..., Any], row: Row, **own: Any) -> JaxOp:
    groups = {"num_groups": row["groups"]} if "groups" in row.options else {}
    return module(make(row.x[-1], epsilon=EPSILON, **groups, **own, **options(row)))


def recurrent(cell: Callable[..., Any], row: Row, channels: int, reverse: bool) -> JaxOp:
    # The default, orthogonal, does not support bfloat16; the values are replaced anyway.
    zeros = {"recurrent_kernel_init": jax.nn.initializers.zeros}
    built = cell(channels, row["features"], **zeros, **options(row))
    rnn = nnx.RNN(built, reverse=reverse, keep_order=True, rngs=False)
    return module(rnn, "cell/", lambda rnn, x: rnn(x, rngs=nnx.Rngs(0)))


OPS: dict[str, Callable[[Row], JaxOp]] = {
    "dense": lambda row: module(nnx.Linear(row.x[-1], row["features"], **options(row))),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": partial(pool, nnx.max_pool),
    "avg_pool": partial(pool, partial(nnx.avg_pool, count_include_pad=False)),
    "batch_norm": partial(norm, nnx.BatchNorm, use_running_average=False),
    "layer_norm": partial(norm, nnx.LayerNorm),
    "group_norm": partial(norm, nnx.GroupNorm),
    "rms_norm": partial(norm, nnx.RMSNorm),
    "lstm": partial(stacked, partial(recurrent, nnx.OptimizedLSTMCell)),
    "gru": partial(stacked, partial(recurrent, nnx.GRUCell)),
    "simple_rnn": partial(stacked, partial(recurrent, nnx.SimpleCell)),
    "attention": attention(nnx.dot_product_attention),
    "embedding": lambda row: module(nnx.Embed(row["vocabulary"], row["features"], **options(row))),
    "dropout": lambda row: module(nnx.Dropout(row["rate"], rngs=nnx.Rngs(0))),
}
