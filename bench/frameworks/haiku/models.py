"""In Haiku. Every model is a function of the size that gives a function of a batch."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from ..sizes import EPSILON, MOMENTUM, LanguageModel, MobileNet, Perceptron, ResNet, Transformer

Forward = Callable[[Any], Any]


class ConvNorm(hk.Module):
    def __init__(self, features: int, size: int, stride: int = 1, groups: int = 1, *, name: str):
        super().__init__(name=name)
        self.conv = hk.Conv2D(
            features,
            size,
            stride,
            padding=[(size // 2, size // 2)] * 2,
            with_bias=False,
            feature_group_count=groups,
            name="conv",
        )
        self.norm = hk.BatchNorm(True, True, MOMENTUM, EPSILON, name="norm")

    def __call__(self, x: Any) -> Any:
        return self.norm(self.conv(x), is_training=True)


class Bottleneck(hk.Module):
    def __init__(self, width: int, stride: int, project: bool, *, name: str):
        super().__init__(name=name)
        self.a = ConvNorm(width, 1, name="a")
        self.b = ConvNorm(width, 3, stride, name="b")
        self.c = ConvNorm(4 * width, 1, name="c")
        self.shortcut = ConvNorm(4 * width, 1, stride, name="shortcut") if project else None

    def __call__(self, x: Any) -> Any:
        y = self.c(jax.nn.relu(self.b(jax.nn.relu(self.a(x)))))
        return jax.nn.relu((x if self.shortcut is None else self.shortcut(x)) + y)


def resnet50(size: ResNet) -> Forward:
    def forward(x: Any) -> Any:
        x = jax.nn.relu(ConvNorm(size.width, 7, 2, name="stem")(x))
        # hk.max_pool pads no such way; zeros do where nothing is less than zero.
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = hk.max_pool(x, (3, 3, 1), (2, 2, 1), "VALID")
        for i, block in enumerate(size.bottlenecks()):
            x = Bottleneck(*block, name=f"blocks_{i}")(x)
        return hk.Linear(size.classes, name="head")(jnp.mean(x, (1, 2)))

    return forward


class Inverted(hk.Module):
    def __init__(self, channels: int, inner: int, features: int, stride: int, *, name: str):
        super().__init__(name=name)
        self.expand = ConvNorm(inner, 1, name="expand") if inner != channels else None
        self.depthwise = ConvNorm(inner, 3, stride, inner, name="depthwise")
        self.project = ConvNorm(features, 1, name="project")
        self.residual = stride == 1 and channels == features

    def __call__(self, x: Any) -> Any:
        y = x if self.expand is None else jax.nn.relu6(self.expand(x))
        y = self.project(jax.nn.relu6(self.depthwise(y)))
        return x + y if self.residual else y


def mobilenet(size: MobileNet) -> Forward:
    def forward(x: Any) -> Any:
        x = jax.nn.relu6(ConvNorm(size.stem, 3, 2, name="stem")(x))
        for i, block in enumerate(size.inverted()):
            x = Inverted(*block, name=f"blocks_{i}")(x)
        x = jax.nn.relu6(ConvNorm(size.last, 1, name="last")(x))
        return hk.Linear(size.classes, name="head")(jnp.mean(x, (1, 2)))

    return forward


def mlp(size: Perceptron) -> Forward:
    def forward(x: Any) -> Any:
        for i, features in enumerate(size.features):
            x = jax.nn.relu(hk.Linear(features, name=f"dense_{i}")(x))
        return hk.Linear(size.classes, name="head")(x)

    return forward


def lstm_lm(size: LanguageModel) -> Forward:
    def forward(ids: Any) -> Any:
        x = hk.Embed(size.vocabulary, size.width, name="tokens")(ids)
        for i in range(size.layers):
            core = hk.LSTM(size.features, name=f"lstm_{i}")
            x, _ = hk.dynamic_unroll(core, x, core.initial_state(len(ids)), time_major=False)
        return hk.Linear(size.vocabulary, name="head")(x)

    return forward


class Block(hk.Module):
    def __init__(self, size: Transformer, *, name: str):
        super().__init__(name=name)
        self.attend_norm = hk.LayerNorm(-1, True, True, EPSILON, name="attend_norm")
        self.attend = hk.MultiHeadAttention(
            size.heads,
            size.width // size.heads,
            w_init=hk.initializers.VarianceScaling(),
            model_size=size.width,
            name="attend",
        )
        self.mlp_norm = hk.LayerNorm(-1, True, True, EPSILON, name="mlp_norm")
        self.up = hk.Linear(4 * size.width, name="up")
        self.down = hk.Linear(size.width, name="down")

    def __call__(self, x: Any) -> Any:
        steps = x.shape[1]
        y = self.attend_norm(x)
        x = x + self.attend(y, y, y, mask=jnp.tril(jnp.ones((1, 1, steps, steps))))
        return x + self.down(jax.nn.gelu(self.up(self.mlp_norm(x))))


def transformer(size: Transformer, scan: bool = False) -> Forward:
    def forward(ids: Any) -> Any:
        x = hk.Embed(size.vocabulary, size.width, name="tokens")(ids)
        positions = hk.Embed(size.steps, size.width, name="positions")
        x = x + positions(jnp.arange(ids.shape[1]))
        if scan:
            stack = hk.experimental.layer_stack(size.blocks, name="body")
            x = stack(lambda x: Block(size, name="blocks")(x))(x)
        else:
            for i in range(size.blocks):
                x = Block(size, name=f"blocks_{i}")(x)
        x = hk.LayerNorm(-1, True, True, EPSILON, name="norm")(x)
        return hk.Linear(size.vocabulary, name="head")(x)

    return forward


MODELS = {
    "mlp": mlp,
    "resnet50": resnet50,
    "mobilenet": mobilenet,
    "lstm_lm": lstm_lm,
    "transformer": transformer,
    "transformer_scan": lambda size: transformer(size, scan=True),
}
