"""Keras' layers called without state, its fastest way from a ``jax.jit``."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers

from ...ops.conv import geometry
from ...ops.norm import EPSILON
from ...ops.pool import window
from ...row import Row
from .. import Unavailable
from ..jax_op import JaxOp, attention, stacked
from . import layout, require_jax


def module(built: Any, row: Row, training: bool | None = None, convert: Any = layout) -> JaxOp:
    """A row from a layer; ``convert`` gives arrays in the order of ``trainable_variables``."""
    require_jax()
    if not built.built:
        built.build(row.x)
    shapes = [variable.shape for variable in built.trainable_variables]
    state = [np.asarray(variable.value) for variable in built.non_trainable_variables]
    options = {} if training is None else {"training": training}

    def own(weights: Any) -> list[Any]:
        values = convert(weights).values()
        return [value.reshape(shape) for value, shape in zip(values, shapes, strict=True)]

    if not state:
        return JaxOp(lambda params, x: built.stateless_call(params, [], x, **options)[0], own)

    def apply(params: Any, x: Any, state: Any) -> Any:
        return built.stateless_call(params, state, x, **options)

    return JaxOp(apply, own, extra=(state,), aux=True)


def ranked(name: str, rank: int) -> Any:
    """The layer for a number of spatial axes: ``ranked("Conv{}D", 2)``."""
    return getattr(layers, name.format(rank))


def conv(row: Row) -> JaxOp:
    g = geometry(row)
    padding = {"padding": "same" if g.same else "valid", "dilation_rate": g.dilation}
    options = {**padding, "use_bias": g.bias, "dtype": row.dtype}
    # Keras has a layer of its own for one filter a channel, of rank 1 and 2, with equal strides.
    if g.depthwise and g.rank < 3 and len(set(g.strides)) == 1:
        make = ranked("DepthwiseConv{}D", g.rank)
        built = make(g.kernel, g.strides[0], depth_multiplier=g.features // g.channels, **options)
    else:
        make = ranked("Conv{}D", g.rank)
        built = make(g.features, g.kernel, g.strides, groups=g.groups, **options)
    if g.same or not any(g.padding):
        return module(built, row)
    pad = ranked("ZeroPadding{}D", g.rank)
    pairs = g.pairs if g.rank > 1 else g.pairs[0]
    return module(keras.Sequential([pad(pairs, dtype=row.dtype), built]), row)


def conv_transpose(row: Row) -> JaxOp:
    g = geometry(row)
    make = ranked("Conv{}DTranspose", g.rank)
    built = make(g.features, g.kernel, g.strides, row["padding"].lower(), dtype=row.dtype)

    def convert(weights: Any) -> Any:
        flipped = np.flip(weights["kernel"], tuple(range(g.rank)))
        return {"kernel": np.swapaxes(flipped, -1, -2), "bias": weights["bias"]}

    return module(built, row, convert=convert)


def pool(name: str, row: Row) -> JaxOp:
    w = window(row)
    axes = zip(w.window, w.strides, w.padding, strict=True)
    if any(w.padding) and not all(s == 1 and 2 * p == k - 1 for k, s, p in axes):
        raise Unavailable("keras' pools take no padding but same and valid")
    how = "same" if any(w.padding) else "valid"
    sizes, strides = (w.window, w.strides) if len(w.window) > 1 else (w.window[0], w.strides[0])
    return module(ranked(name, len(w.window))(sizes, strides, how, dtype=row.dtype), row)


def recurrent(make: Any, row: Row, channels: int, reverse: bool) -> JaxOp:
    options = {"return_sequences": True, "go_backwards": reverse, "dtype": row.dtype}
    # The default, orthogonal, does not support bfloat16; the values are replaced anyway.
    built = make(row["features"], recurrent_initializer="zeros", **options)
    own = module(built, row.replace((*row.x[:-1], channels)))

    def apply(params: Any, x: Any) -> Any:
        y = built.stateless_call(params, *own.extra, x)[0]
        # Going backwards, Keras returns the outputs in the order of their computation.
        return y[:, ::-1] if reverse else y

    return JaxOp(apply, own.convert)


def layer(make: Any, *names: str, training: bool | None = None) -> Callable[[Row], JaxOp]:
    """A layer that takes the row's options of those names, and its dtype."""
    return lambda row: module(make(*map(row.options.get, names), dtype=row.dtype), row, training)


OPS: dict[str, Callable[[Row], JaxOp]] = {
    "dense": layer(layers.Dense, "features"),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": partial(pool, "MaxPooling{}D"),
    "avg_pool": partial(pool, "AveragePooling{}D"),
    "batch_norm": layer(partial(layers.BatchNormalization, epsilon=EPSILON), training=True),
    "layer_norm": layer(partial(layers.LayerNormalization, epsilon=EPSILON)),
    "group_norm": layer(partial(layers.GroupNormalization, epsilon=EPSILON), "groups"),
    "rms_norm": layer(partial(layers.RMSNormalization, epsilon=EPSILON)),
    "lstm": partial(stacked, partial(recurrent, layers.LSTM)),
    "gru": partial(stacked, partial(recurrent, layers.GRU)),
    "simple_rnn": partial(stacked, partial(recurrent, layers.SimpleRNN)),
    "attention": attention(keras.ops.dot_product_attention),
    "embedding": layer(layers.Embedding, "vocabulary", "features"),
    "dropout": layer(layers.Dropout, "rate", training=True),
}
