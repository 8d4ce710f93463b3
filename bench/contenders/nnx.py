"""Flax NNX, as its users write it; split before ``jax.jit`` and merged inside, its fastest way."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from ..ops.conv import geometry, separable_parts, transposed_geometry
from ..ops.norm import EPSILON
from ..row import Row
from .contender import Contender, chain, no_weights, pick, stacked
from .linen import dtypes, pool

LACKS: dict[str, str] = {}


def options(row: Row) -> dict[str, Any]:
    return {**dtypes(row), "rngs": nnx.Rngs(0)}


def module(
    built: Any,
    convert: Callable[[Any], Any] = pick("kernel", "bias"),
    run: Callable[[Any, Any], Any] = lambda module, x: module(x),
) -> Contender:
    """``convert`` gives nested dicts with the names of the module's attributes."""
    graphdef, params, rest = nnx.split(built, nnx.Param, ...)

    def state_of(weights: Any) -> Any:
        state = jax.tree.map(lambda value: value, params)
        nnx.replace_by_pure_dict(state, convert(weights))
        return state

    if not jax.tree.leaves(rest):
        return Contender(lambda params, x: run(nnx.merge(graphdef, params, rest), x), state_of)

    def apply(params: Any, x: Any, rest: Any) -> Any:
        # A copy: what comes from outside of the differentiated function cannot be changed in it.
        merged = nnx.merge(graphdef, params, rest, copy=True)
        y = merged(x)
        return y, nnx.state(merged, nnx.Not(nnx.Param))

    return Contender(apply, state_of, extra=(rest,), aux=True)


def conv(row: Row) -> Contender:
    g = geometry(row)
    return module(
        nnx.Conv(
            g.channels,
            g.features,
            g.kernel,
            g.strides,
            padding=g.pairs,
            kernel_dilation=g.dilation,
            feature_group_count=g.groups,
            use_bias=g.bias,
            **options(row),
        )
    )


def conv_transpose(row: Row) -> Contender:
    g = transposed_geometry(row)
    return module(
        nnx.ConvTranspose(
            g.channels, g.features, g.kernel, g.strides, padding=row["padding"], **options(row)
        )
    )


def norm(make: Callable[..., Any], *names: str, **own: Any) -> Callable[[Row], Contender]:
    def build(row: Row) -> Contender:
        groups = {"num_groups": row["groups"]} if "groups" in row.options else {}
        built = make(row.x[-1], epsilon=EPSILON, **groups, **own, **options(row))
        return module(built, pick(*names))

    return build


def recurrent(
    cell: Callable[..., Any], convert: Callable[[Any], Any]
) -> Callable[[Row], Contender]:
    def one(row: Row, channels: int, reverse: bool) -> Contender:
        # The default, orthogonal, knows no bfloat16; the values are replaced anyway.
        zeros = {"recurrent_kernel_init": jax.nn.initializers.zeros}
        built = cell(channels, row["features"], **zeros, **options(row))
        rnn = nnx.RNN(built, reverse=reverse, keep_order=True, rngs=False)
        return module(
            rnn,
            lambda weights: {"cell": convert(weights)},
            lambda rnn, x: rnn(x, rngs=nnx.Rngs(0)),
        )

    return functools.partial(stacked, one)


def lstm_weights(w: Any) -> Any:
    recurrent = {"kernel": w["recurrent_kernel"], "bias": w["bias"]}
    return {"dense_i": {"kernel": w["kernel"]}, "dense_h": recurrent}


def dense_weights(w: Any) -> Any:
    return {"dense_i": pick("kernel", "bias")(w), "dense_h": {"kernel": w["recurrent_kernel"]}}


def attention(row: Row) -> Contender:
    def apply(params: Any, x: Any) -> Any:
        return nnx.dot_product_attention(*x, is_causal=row["causal"])

    return Contender(apply, no_weights)


OPS = {
    "dense": lambda row: module(nnx.Linear(row.x[-1], row["features"], **options(row))),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "separable": lambda row: chain(*map(conv, separable_parts(row))),
    "max_pool": pool(nnx.max_pool),
    "avg_pool": pool(nnx.avg_pool, count_include_pad=False),
    "batch_norm": norm(nnx.BatchNorm, "scale", "bias", use_running_average=False),
    "layer_norm": norm(nnx.LayerNorm, "scale", "bias"),
    "group_norm": norm(nnx.GroupNorm, "scale", "bias"),
    "rms_norm": norm(nnx.RMSNorm, "scale"),
    "lstm": recurrent(nnx.OptimizedLSTMCell, lstm_weights),
    "gru": recurrent(nnx.GRUCell, dense_weights),
    "simple_rnn": recurrent(nnx.SimpleCell, dense_weights),
    "attention": attention,
    "embedding": lambda row: module(
        nnx.Embed(row["vocabulary"], row["features"], **options(row)), pick("embedding")
    ),
    "dropout": lambda row: module(nnx.Dropout(row["rate"], rngs=nnx.Rngs(0)), no_weights),
}
