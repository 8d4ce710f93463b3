"""jlayers' layers, as its users write them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

import jlayers as jl

from ...ops.attention import lengths
from ...ops.conv import geometry
from ...ops.norm import EPSILON
from ...ops.pool import window
from ...row import Row
from ..jax_op import JaxOp
from ..weights import own_names


def stateless(layer: jl.Layer) -> JaxOp:
    return JaxOp(lambda params, x: layer.apply(params, {}, x)[0])


def conv(row: Row) -> JaxOp:
    g = geometry(row)
    shape: Any = {"strides": g.strides, "padding": g.pairs, "dilation": g.dilation}
    return stateless(jl.Conv(g.features, g.kernel, groups=g.groups, bias=g.bias, **shape))


def conv_transpose(row: Row) -> JaxOp:
    options = {"strides": row["strides"], "padding": row["padding"]}
    return stateless(jl.ConvTranspose(row["features"], row["kernel"], **options))


def recurrent(make: Callable[..., jl.Layer], row: Row, **method: str) -> JaxOp:
    one = make(row["features"], **method)
    if row["bidirectional"]:
        one = jl.bidirectional(one)

    def convert(weights: Any) -> dict[str, Any]:
        layers = [[own_names(cell) for cell in directions] for directions in weights]
        if row["bidirectional"]:
            named = [{"forward": forward, "backward": back} for forward, back in layers]
        else:
            named = [own for (own,) in layers]
        return {f"layer_{i}": layer for i, layer in enumerate(named)}

    model = jl.serial(**{f"layer_{i}": one for i in range(row["layers"])})
    return stateless(model)._replace(convert=convert)


def batch_norm(row: Row) -> JaxOp:
    layer = jl.BatchNorm(epsilon=EPSILON)
    _, state = layer.init(jax.random.key(0), jl.spec(row.x, row.dtype))
    apply = partial(layer.apply, train=True)
    return JaxOp(lambda params, x, state: apply(params, state, x), extra=(state,), aux=True)


def pool(make: Callable[..., jl.Layer], row: Row, **method: str) -> JaxOp:
    w = window(row)
    return stateless(make(w.window, strides=w.strides, padding=w.pairs, **method))


def dropout(row: Row) -> JaxOp:
    apply, key = jl.Dropout(row["rate"]).apply, jax.random.key(0)
    return JaxOp(lambda p, x, key: apply({}, {}, x, key=key, train=True)[0], extra=(key,))


def attention(row: Row, **method: str) -> JaxOp:
    options: dict[str, Any] = {"causal": row["causal"], "window": row.options.get("window")}
    attend = partial(jl.core.attention, **options, **method)
    if not row.options.get("lengths"):
        return JaxOp(lambda params, x: attend(*x))
    present = np.arange(row.x[1]) < lengths(row)[:, None, None, None]
    return JaxOp(lambda params, x, mask: attend(*x, mask=mask), extra=(present,))


OPS: dict[str, Callable[[Row], JaxOp]] = {
    "dense": lambda row: stateless(jl.Dense(row["features"])),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": partial(pool, jl.MaxPool),
    "avg_pool": partial(pool, jl.AvgPool),
    "batch_norm": batch_norm,
    "layer_norm": lambda row: stateless(jl.LayerNorm(epsilon=EPSILON)),
    "group_norm": lambda row: stateless(jl.GroupNorm(row["groups"], epsilon=EPSILON)),
    "rms_norm": lambda row: stateless(jl.RMSNorm(epsilon=EPSILON)),
    "lstm": partial(recurrent, jl.LSTM),
    "gru": partial(recurrent, jl.GRU),
    "simple_rnn": partial(recurrent, jl.SimpleRNN),
    "attention": attention,
    "embedding": lambda row: stateless(jl.Embedding(row["vocabulary"], row["features"])),
    "dropout": dropout,
}
