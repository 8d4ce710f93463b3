"""In Keras 3: functional models."""

from typing import Any

import keras
from keras import layers

from .. import sizes
from ..sizes import EPSILON, MOMENTUM, LanguageModel, Perceptron, Transformer


def conv_norm(x: Any, spec: sizes.ConvNorm, name: str) -> Any:
    if spec.size > 1:
        x = layers.ZeroPadding2D(spec.size // 2)(x)
    shared = {"strides": spec.stride, "use_bias": False, "name": f"{name}_conv"}
    if spec.groups > 1:
        x = layers.DepthwiseConv2D(spec.size, **shared)(x)
    else:
        x = layers.Conv2D(spec.features, spec.size, **shared)(x)
    return layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=f"{name}_norm")(x)


def conv_block(x: Any, spec: sizes.ConvBlock, activation: str, name: str) -> Any:
    y = conv_norm(x, spec.convs[0], f"{name}_convs_0")
    for i, conv in enumerate(spec.convs[1:], 1):
        y = conv_norm(layers.Activation(activation)(y), conv, f"{name}_convs_{i}")
    if spec.shortcut is not None:
        x = conv_norm(x, spec.shortcut, f"{name}_shortcut")
    y = layers.Add()([x, y]) if spec.residual else y
    return layers.Activation(activation)(y) if spec.activated else y


def conv_net(size: sizes.ConvNet) -> Any:
    inputs = keras.Input((size.image, size.image, 3))
    x = layers.Activation(size.activation)(conv_norm(inputs, size.stem, "stem"))
    if size.pooled:
        x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for i, spec in enumerate(size.blocks):
        x = conv_block(x, spec, size.activation, f"blocks_{i}")
    if size.last is not None:
        x = layers.Activation(size.activation)(conv_norm(x, size.last, "last"))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(size.classes, name="head")(x))


def mlp(size: Perceptron) -> Any:
    x = inputs = keras.Input((size.inputs,))
    for i, features in enumerate(size.features):
        x = layers.Dense(features, "relu", name=f"dense_{i}")(x)
    return keras.Model(inputs, layers.Dense(size.classes, name="head")(x))


def lstm_lm(size: LanguageModel) -> Any:
    ids = keras.Input((size.steps,), dtype="int32")
    x = layers.Embedding(size.vocabulary, size.width, name="tokens")(ids)
    for i in range(size.layers):
        x = layers.LSTM(size.features, return_sequences=True, name=f"lstm_{i}")(x)
    return keras.Model(ids, layers.Dense(size.vocabulary, name="head")(x))


class Embed(layers.Layer):
    def __init__(self, size: Transformer, **options: Any):
        super().__init__(**options)
        self.tokens = layers.Embedding(size.vocabulary, size.width, name="tokens")
        self.positions = layers.Embedding(size.steps, size.width, name="positions")

    def call(self, ids: Any) -> Any:
        return self.tokens(ids) + self.positions(keras.ops.arange(ids.shape[1]))


def transformer(size: Transformer) -> Any:
    def block(x: Any, name: str) -> Any:
        y = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_attend_norm")(x)
        heads = (size.heads, size.width // size.heads)
        attend = layers.MultiHeadAttention(*heads, name=f"{name}_attend")
        x = layers.Add()([x, attend(y, y, use_causal_mask=True)])
        y = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_mlp_norm")(x)
        y = layers.Dense(4 * size.width, name=f"{name}_up")(y)
        y = layers.Activation(lambda y: keras.activations.gelu(y, approximate=True))(y)
        return layers.Add()([x, layers.Dense(size.width, name=f"{name}_down")(y)])

    ids = keras.Input((size.steps,), dtype="int32")
    x = Embed(size, name="embed")(ids)
    for i in range(size.blocks):
        x = block(x, f"blocks_{i}")
    x = layers.LayerNormalization(epsilon=EPSILON, name="norm")(x)
    return keras.Model(ids, layers.Dense(size.vocabulary, name="head")(x))


MODELS = {"mlp": mlp, "conv_net": conv_net, "lstm_lm": lstm_lm, "transformer": transformer}
