"""In Keras 3: functional models."""

from typing import Any

import keras
from keras import layers

from ..sizes import EPSILON, MOMENTUM, LanguageModel, MobileNet, Perceptron, ResNet, Transformer


def conv_norm(
    x: Any, features: int, size: int, stride: int = 1, *, name: str, depthwise: bool = False
) -> Any:
    if size > 1:
        x = layers.ZeroPadding2D(size // 2)(x)
    shared = {"strides": stride, "use_bias": False, "name": f"{name}_conv"}
    if depthwise:
        x = layers.DepthwiseConv2D(size, **shared)(x)
    else:
        x = layers.Conv2D(features, size, **shared)(x)
    return layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=f"{name}_norm")(x)


def resnet50(size: ResNet) -> Any:
    def bottleneck(x: Any, width: int, stride: int, project: bool, name: str) -> Any:
        y = layers.ReLU()(conv_norm(x, width, 1, name=f"{name}_a"))
        y = layers.ReLU()(conv_norm(y, width, 3, stride, name=f"{name}_b"))
        y = conv_norm(y, 4 * width, 1, name=f"{name}_c")
        if project:
            x = conv_norm(x, 4 * width, 1, stride, name=f"{name}_shortcut")
        return layers.ReLU()(layers.Add()([x, y]))

    inputs = keras.Input((size.image, size.image, 3))
    x = layers.ReLU()(conv_norm(inputs, size.width, 7, 2, name="stem"))
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for i, block in enumerate(size.bottlenecks()):
        x = bottleneck(x, *block, name=f"blocks_{i}")
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(size.classes, name="head")(x))


def mobilenet(size: MobileNet) -> Any:
    def inverted(x: Any, channels: int, inner: int, features: int, stride: int, name: str) -> Any:
        y = x
        if inner != channels:
            y = layers.ReLU(6.0)(conv_norm(y, inner, 1, name=f"{name}_expand"))
        y = conv_norm(y, inner, 3, stride, name=f"{name}_depthwise", depthwise=True)
        y = conv_norm(layers.ReLU(6.0)(y), features, 1, name=f"{name}_project")
        return layers.Add()([x, y]) if stride == 1 and channels == features else y

    inputs = keras.Input((size.image, size.image, 3))
    x = layers.ReLU(6.0)(conv_norm(inputs, size.stem, 3, 2, name="stem"))
    for i, block in enumerate(size.inverted()):
        x = inverted(x, *block, name=f"blocks_{i}")
    x = layers.ReLU(6.0)(conv_norm(x, size.last, 1, name="last"))
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
        attend = layers.MultiHeadAttention(
            size.heads, size.width // size.heads, name=f"{name}_attend"
        )
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


MODELS = {
    "mlp": mlp,
    "resnet50": resnet50,
    "mobilenet": mobilenet,
    "lstm_lm": lstm_lm,
    "transformer": transformer,
}
