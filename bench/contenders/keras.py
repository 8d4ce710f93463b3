"""Keras 3 on JAX: layers called without state, its fastest way from a ``jax.jit``."""

import functools
import os
from collections.abc import Callable
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from keras import layers

from ..ops.conv import geometry, separable_parts, transposed_geometry
from ..ops.norm import EPSILON
from ..ops.pool import window
from ..row import Row
from .contender import Contender, Unavailable, chain, no_weights, stacked

LACKS: dict[str, str] = {}


def module(
    built: Any, row: Row, convert: Callable[[Any], list[Any]], training: bool | None = None
) -> Contender:
    """``convert`` gives the arrays in the order of ``trainable_variables``."""
    if keras.backend.backend() != "jax":
        raise Unavailable("keras was imported with another backend; set KERAS_BACKEND=jax")
    if not built.built:
        built.build(row.x)
    state = [np.asarray(variable.value) for variable in built.non_trainable_variables]
    options = {} if training is None else {"training": training}
    if not state:
        return Contender(
            lambda params, x: built.stateless_call(params, [], x, **options)[0], convert
        )

    def apply(params: Any, x: Any, state: Any) -> Any:
        return built.stateless_call(params, state, x, **options)

    return Contender(apply, convert, extra=(state,), aux=True)


def listed(*names: str) -> Callable[[Any], list[Any]]:
    return lambda weights: [weights[name] for name in names if name in weights]


def conv(row: Row) -> Contender:
    g = geometry(row)
    shared = {
        "strides": g.strides,
        "padding": "same" if g.same else "valid",
        "dilation_rate": g.dilation,
        "use_bias": g.bias,
        "dtype": row.dtype,
    }
    # Keras has a layer of its own for one filter a channel, of rank 1 and 2, with equal strides.
    if g.depthwise and g.rank < 3 and len(set(g.strides)) == 1:
        make: Any = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)[g.rank - 1]
        shared["strides"] = g.strides[0]
        built = make(g.kernel, depth_multiplier=g.features // g.channels, **shared)

        def convert(weights: Any) -> list[Any]:
            kernel = weights["kernel"]
            lists = [kernel.reshape(*g.kernel, g.channels, -1)]
            return lists + listed("bias")(weights)
    else:
        make = (layers.Conv1D, layers.Conv2D, layers.Conv3D)[g.rank - 1]
        built = make(g.features, g.kernel, groups=g.groups, **shared)
        convert = listed("kernel", "bias")
    if g.same or not any(g.padding):
        return module(built, row, convert)
    pad = (layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)[g.rank - 1]
    padding = g.pairs if g.rank > 1 else g.pairs[0]
    model = keras.Sequential([pad(padding, dtype=row.dtype), built])
    return module(model, row, convert)


def conv_transpose(row: Row) -> Contender:
    g = transposed_geometry(row)
    make = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)[g.rank - 1]
    built = make(g.features, g.kernel, g.strides, row["padding"].lower(), dtype=row.dtype)

    def convert(weights: Any) -> list[Any]:
        flipped = np.flip(weights["kernel"], tuple(range(g.rank)))
        return [np.swapaxes(flipped, -1, -2), weights["bias"]]

    return module(built, row, convert)


def pool(*make: Any) -> Callable[[Row], Contender]:
    def build(row: Row) -> Contender:
        w = window(row)
        if any(w.padding):
            same = all(
                s == 1 and 2 * p == k - 1
                for k, s, p in zip(w.window, w.strides, w.padding, strict=True)
            )
            if not same:
                raise Unavailable("keras' pools take no padding but same and valid")
        how = "same" if any(w.padding) else "valid"
        sizes, strides = (w.window, w.strides) if len(w.window) > 1 else (w.window[0], w.strides[0])
        built = make[len(w.window) - 1](sizes, strides, how, dtype=row.dtype)
        return module(built, row, lambda weights: [])

    return build


def recurrent(make: Any, convert: Callable[[Any], list[Any]]) -> Callable[[Row], Contender]:
    def one(row: Row, channels: int, reverse: bool) -> Contender:
        built = make(
            row["features"],
            return_sequences=True,
            go_backwards=reverse,
            recurrent_initializer="zeros",  # orthogonal knows no bfloat16; replaced anyway
            dtype=row.dtype,
        )
        seed = module(built, row.replace((*row.x[:-1], channels)), convert).extra

        def apply(params: Any, x: Any) -> Any:
            y = built.stateless_call(params, *seed, x)[0]
            # Going backwards, Keras gives the outputs in the order in which they were computed.
            return y[:, ::-1] if reverse else y

        return Contender(apply, convert)

    return functools.partial(stacked, one)


def gru_weights(w: Any) -> list[Any]:
    """Gates z, r, h; one bias on either side."""
    size = w["recurrent_bias"].shape[0]
    second = np.concatenate([w["second_bias"], w["recurrent_bias"]])

    def zrh(value: Any) -> Any:
        r, z, n = np.split(value, [size, 2 * size], axis=-1)
        return np.concatenate([z, r, n], axis=-1)

    return [zrh(w["kernel"]), zrh(w["recurrent_kernel"]), np.stack([zrh(w["bias"]), zrh(second)])]


def attention(row: Row) -> Contender:
    def apply(params: Any, x: Any) -> Any:
        return keras.ops.dot_product_attention(*x, is_causal=row["causal"])

    return Contender(apply, no_weights)


def norm(make: Callable[[Row], Any], *names: str, training: bool | None = None) -> Any:
    return lambda row: module(make(row), row, listed(*names), training)


OPS = {
    "dense": norm(lambda row: layers.Dense(row["features"], dtype=row.dtype), "kernel", "bias"),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "separable": lambda row: chain(*map(conv, separable_parts(row))),
    "max_pool": pool(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    "avg_pool": pool(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    "batch_norm": norm(
        lambda row: layers.BatchNormalization(epsilon=EPSILON, dtype=row.dtype),
        "scale",
        "bias",
        training=True,
    ),
    "layer_norm": norm(
        lambda row: layers.LayerNormalization(epsilon=EPSILON, dtype=row.dtype), "scale", "bias"
    ),
    "group_norm": norm(
        lambda row: layers.GroupNormalization(row["groups"], epsilon=EPSILON, dtype=row.dtype),
        "scale",
        "bias",
    ),
    "rms_norm": norm(
        lambda row: layers.RMSNormalization(epsilon=EPSILON, dtype=row.dtype), "scale"
    ),
    "lstm": recurrent(layers.LSTM, listed("kernel", "recurrent_kernel", "bias")),
    "gru": recurrent(layers.GRU, gru_weights),
    "simple_rnn": recurrent(layers.SimpleRNN, listed("kernel", "recurrent_kernel", "bias")),
    "attention": attention,
    "embedding": norm(
        lambda row: layers.Embedding(row["vocabulary"], row["features"], dtype=row.dtype),
        "embedding",
    ),
    "dropout": lambda row: module(
        layers.Dropout(row["rate"], dtype=row.dtype), row, lambda weights: [], training=True
    ),
}
