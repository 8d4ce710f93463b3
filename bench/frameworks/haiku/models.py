"""In Haiku. Every model is a function of the size that gives a function of a batch."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from .. import sizes
from ..sizes import EPSILON, MOMENTUM, LanguageModel, Perceptron, Transformer

Forward = Callable[[Any], Any]


class ConvNorm(hk.Module):
    def __init__(self, spec: sizes.ConvNorm, name: str):
        super().__init__(name)
        pad, options = spec.size // 2, {"with_bias": False, "feature_group_count": spec.groups}
        shape = (spec.features, spec.size, spec.stride)
        self.conv = hk.Conv2D(*shape, padding=[(pad, pad)] * 2, **options, name="conv")
        self.norm = hk.BatchNorm(True, True, MOMENTUM, EPSILON, name="norm")

    def __call__(self, x: Any) -> Any:
        return self.norm(self.conv(x), is_training=True)


class ConvBlock(hk.Module):
    def __init__(self, spec: sizes.ConvBlock, activation: Any, name: str):
        super().__init__(name)
        self.spec, self.activation = spec, activation
        self.convs = [ConvNorm(conv, f"convs_{i}") for i, conv in enumerate(spec.convs)]
        self.shortcut = spec.shortcut and ConvNorm(spec.shortcut, "shortcut")

    def __call__(self, x: Any) -> Any:
        y = self.convs[0](x)
        for conv in self.convs[1:]:
            y = conv(self.activation(y))
        x = x if self.shortcut is None else self.shortcut(x)
        y = x + y if self.spec.residual else y
        return self.activation(y) if self.spec.activated else y


def conv_net(size: sizes.ConvNet) -> Forward:
    activation = getattr(jax.nn, size.activation)

    def forward(x: Any) -> Any:
        x = activation(ConvNorm(size.stem, "stem")(x))
        if size.pooled:
            # hk.max_pool has no such padding; zeros do where nothing is less than zero.
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            x = hk.max_pool(x, (3, 3, 1), (2, 2, 1), "VALID")
        for i, spec in enumerate(size.blocks):
            x = ConvBlock(spec, activation, f"blocks_{i}")(x)
        if size.last is not None:
            x = activation(ConvNorm(size.last, "last")(x))
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
        options = {"model_size": size.width, "w_init": hk.initializers.VarianceScaling()}
        heads = (size.heads, size.width // size.heads)
        self.attend = hk.MultiHeadAttention(*heads, **options, name="attend")
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
    "conv_net": conv_net,
    "lstm_lm": lstm_lm,
    "transformer": transformer,
    "transformer_scan": lambda size: transformer(size, scan=True),
}
