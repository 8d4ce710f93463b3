"""In Flax linen."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from .. import sizes
from ..sizes import EPSILON, MOMENTUM, LanguageModel, Perceptron, Transformer


class ConvNorm(nn.Module):
    spec: sizes.ConvNorm

    @nn.compact
    def __call__(self, x: Any) -> Any:
        spec, options = self.spec, {"feature_group_count": self.spec.groups, "use_bias": False}
        shape = (spec.features, (spec.size, spec.size), spec.stride, spec.size // 2)
        x = nn.Conv(*shape, **options, name="conv")(x)
        norm = nn.BatchNorm(momentum=MOMENTUM, epsilon=EPSILON, name="norm")
        return norm(x, use_running_average=False)


class ConvBlock(nn.Module):
    spec: sizes.ConvBlock
    activation: Callable[[Any], Any]

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = ConvNorm(self.spec.convs[0], name="convs_0")(x)
        for i, conv in enumerate(self.spec.convs[1:], 1):
            y = ConvNorm(conv, name=f"convs_{i}")(self.activation(y))
        if self.spec.shortcut is not None:
            x = ConvNorm(self.spec.shortcut, name="shortcut")(x)
        y = x + y if self.spec.residual else y
        return self.activation(y) if self.spec.activated else y


class ConvNet(nn.Module):
    size: sizes.ConvNet

    @nn.compact
    def __call__(self, x: Any) -> Any:
        size, activation = self.size, getattr(nn, self.size.activation)
        x = activation(ConvNorm(size.stem, name="stem")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))) if size.pooled else x
        for i, spec in enumerate(size.blocks):
            x = ConvBlock(spec, activation, name=f"blocks_{i}")(x)
        if size.last is not None:
            x = activation(ConvNorm(size.last, name="last")(x))
        return nn.Dense(size.classes, name="head")(jnp.mean(x, (1, 2)))


class Mlp(nn.Module):
    size: Perceptron

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for i, features in enumerate(self.size.features):
            x = nn.relu(nn.Dense(features, name=f"dense_{i}")(x))
        return nn.Dense(self.size.classes, name="head")(x)


class LstmLm(nn.Module):
    size: LanguageModel

    @nn.compact
    def __call__(self, ids: Any) -> Any:
        x = nn.Embed(self.size.vocabulary, self.size.width, name="tokens")(ids)
        for i in range(self.size.layers):
            x = nn.RNN(nn.OptimizedLSTMCell(self.size.features, name=f"lstm_{i}"))(x)
        return nn.Dense(self.size.vocabulary, name="head")(x)


class Block(nn.Module):
    size: Transformer

    @nn.compact
    def __call__(self, x: Any) -> Any:
        mask = nn.make_causal_mask(x[..., 0])
        y = nn.LayerNorm(epsilon=EPSILON, name="attend_norm")(x)
        x = x + nn.MultiHeadDotProductAttention(self.size.heads, name="attend")(y, mask=mask)
        y = nn.LayerNorm(epsilon=EPSILON, name="mlp_norm")(x)
        y = nn.gelu(nn.Dense(4 * self.size.width, name="up")(y))
        return x + nn.Dense(self.size.width, name="down")(y)


class Step(Block):
    """A block as the body of a scan, which returns an output besides the carry."""

    @nn.compact
    def __call__(self, x: Any, _: None) -> Any:
        return super().__call__(x), None


class Gpt(nn.Module):
    size: Transformer
    scan: bool = False

    @nn.compact
    def __call__(self, ids: Any) -> Any:
        size = self.size
        x = nn.Embed(size.vocabulary, size.width, name="tokens")(ids)
        x = x + nn.Embed(size.steps, size.width, name="positions")(jnp.arange(ids.shape[1]))
        if self.scan:
            split = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
            x, _ = nn.scan(Step, **split, length=size.blocks)(size, name="blocks")(x, None)
        else:
            for i in range(size.blocks):
                x = Block(size, name=f"blocks_{i}")(x)
        x = nn.LayerNorm(epsilon=EPSILON, name="norm")(x)
        return nn.Dense(size.vocabulary, name="head")(x)


MODELS: dict[str, Any] = {"mlp": Mlp, "conv_net": ConvNet, "lstm_lm": LstmLm, "transformer": Gpt}
MODELS["transformer_scan"] = lambda size: Gpt(size, scan=True)
