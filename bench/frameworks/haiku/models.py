"""In Haiku: every model is a function of its size and a batch."""

from functools import partial
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from .. import sizes
from ..sizes import EPSILON, MOMENTUM, LanguageModel, Perceptron, Transformer


class ConvNorm(hk.Module):
    def __init__(self, spec: sizes.ConvNorm, name: str):
        super().__init__(name)
        self.spec = spec

    def __call__(self, x: Any) -> Any:
        spec, pad = self.spec, self.spec.size // 2
        shape = (spec.features, spec.size, spec.stride)
        options = {"with_bias": False, "feature_group_count": spec.groups, "name": "conv"}
        x = hk.Conv2D(*shape, padding=[(pad, pad)] * 2, **options)(x)
        return hk.BatchNorm(True, True, MOMENTUM, EPSILON, name="norm")(x, is_training=True)


class ConvBlock(hk.Module):
    def __init__(self, spec: sizes.ConvBlock, activation: Any, name: str):
        super().__init__(name)
        self.spec, self.activation = spec, activation

    def __call__(self, x: Any) -> Any:
        y = ConvNorm(self.spec.convs[0], "convs_0")(x)
        for i, conv in enumerate(self.spec.convs[1:], 1):
            y = ConvNorm(conv, f"convs_{i}")(self.activation(y))
        x = x if self.spec.shortcut is None else ConvNorm(self.spec.shortcut, "shortcut")(x)
        y = x + y if self.spec.residual else y
        return self.activation(y) if self.spec.activated else y


def conv_net(size: sizes.ConvNet, x: Any) -> Any:
    activation = getattr(jax.nn, size.activation)
    x = activation(ConvNorm(size.stem, "stem")(x))
    if size.pooled:
        # hk.max_pool has no such padding; after a ReLU, padding with zeros gives the same.
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = hk.max_pool(x, (3, 3, 1), (2, 2, 1), "VALID")
    for i, spec in enumerate(size.blocks):
        x = ConvBlock(spec, activation, f"blocks_{i}")(x)
    if size.last is not None:
        x = activation(ConvNorm(size.last, "last")(x))
    return hk.Linear(size.classes, name="head")(jnp.mean(x, (1, 2)))


def mlp(size: Perceptron, x: Any) -> Any:
    for i, features in enumerate(size.features):
        x = jax.nn.relu(hk.Linear(features, name=f"dense_{i}")(x))
    return hk.Linear(size.classes, name="head")(x)


def lstm_lm(size: LanguageModel, ids: Any) -> Any:
    x = hk.Embed(size.vocabulary, size.width, name="tokens")(ids)
    for i in range(size.layers):
        core = hk.LSTM(size.features, name=f"lstm_{i}")
        x, _ = hk.dynamic_unroll(core, x, core.initial_state(len(ids)), time_major=False)
    return hk.Linear(size.vocabulary, name="head")(x)


def layer_norm(name: str) -> hk.LayerNorm:
    return hk.LayerNorm(-1, True, True, EPSILON, name=name)


class Block(hk.Module):
    def __init__(self, size: Transformer, name: str):
        super().__init__(name)
        self.size = size

    def __call__(self, x: Any) -> Any:
        size, steps = self.size, x.shape[1]
        heads = (size.heads, size.width // size.heads)
        options = {"model_size": size.width, "w_init": hk.initializers.VarianceScaling()}
        attend = hk.MultiHeadAttention(*heads, **options, name="attend")
        y = layer_norm("attend_norm")(x)
        x = x + attend(y, y, y, mask=jnp.tril(jnp.ones((1, 1, steps, steps))))
        y = jax.nn.gelu(hk.Linear(4 * size.width, name="up")(layer_norm("mlp_norm")(x)))
        return x + hk.Linear(size.width, name="down")(y)


def transformer(size: Transformer, ids: Any, scan: bool = False) -> Any:
    x = hk.Embed(size.vocabulary, size.width, name="tokens")(ids)
    positions = hk.Embed(size.steps, size.width, name="positions")
    x = x + positions(jnp.arange(ids.shape[1]))
    if scan:
        stack = hk.experimental.layer_stack(size.blocks, name="body")
        x = stack(lambda x: Block(size, name="blocks")(x))(x)
    else:
        for i in range(size.blocks):
            x = Block(size, name=f"blocks_{i}")(x)
    x = layer_norm("norm")(x)
    return hk.Linear(size.vocabulary, name="head")(x)


MODELS = {
    "mlp": mlp,
    "conv_net": conv_net,
    "lstm_lm": lstm_lm,
    "transformer": transformer,
}
MODELS["transformer_scan"] = partial(transformer, scan=True)
