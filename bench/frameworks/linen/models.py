"""In Flax linen."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ..sizes import EPSILON, MOMENTUM, LanguageModel, MobileNet, Perceptron, ResNet, Transformer


class ConvNorm(nn.Module):
    features: int
    size: int
    stride: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(
            self.features,
            (self.size, self.size),
            self.stride,
            self.size // 2,
            feature_group_count=self.groups,
            use_bias=False,
            name="conv",
        )(x)
        return nn.BatchNorm(
            use_running_average=False, momentum=MOMENTUM, epsilon=EPSILON, name="norm"
        )(x)


class Bottleneck(nn.Module):
    width: int
    stride: int
    project: bool

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.relu(ConvNorm(self.width, 1, name="a")(x))
        y = nn.relu(ConvNorm(self.width, 3, self.stride, name="b")(y))
        y = ConvNorm(4 * self.width, 1, name="c")(y)
        if self.project:
            x = ConvNorm(4 * self.width, 1, self.stride, name="shortcut")(x)
        return nn.relu(x + y)


class ResNet50(nn.Module):
    size: ResNet

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(ConvNorm(self.size.width, 7, 2, name="stem")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for i, block in enumerate(self.size.bottlenecks()):
            x = Bottleneck(*block, name=f"blocks_{i}")(x)
        return nn.Dense(self.size.classes, name="head")(jnp.mean(x, (1, 2)))


class Inverted(nn.Module):
    channels: int
    inner: int
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = x
        if self.inner != self.channels:
            y = nn.relu6(ConvNorm(self.inner, 1, name="expand")(y))
        y = nn.relu6(ConvNorm(self.inner, 3, self.stride, self.inner, name="depthwise")(y))
        y = ConvNorm(self.features, 1, name="project")(y)
        return x + y if self.stride == 1 and self.channels == self.features else y


class MobileNetV2(nn.Module):
    size: MobileNet

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu6(ConvNorm(self.size.stem, 3, 2, name="stem")(x))
        for i, block in enumerate(self.size.inverted()):
            x = Inverted(*block, name=f"blocks_{i}")(x)
        x = nn.relu6(ConvNorm(self.size.last, 1, name="last")(x))
        return nn.Dense(self.size.classes, name="head")(jnp.mean(x, (1, 2)))


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
    """A block as the body of a scan, which wants an output beside the carry."""

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
            stacked = nn.scan(
                Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=size.blocks
            )
            x, _ = stacked(size, name="blocks")(x, None)
        else:
            for i in range(size.blocks):
                x = Block(size, name=f"blocks_{i}")(x)
        x = nn.LayerNorm(epsilon=EPSILON, name="norm")(x)
        return nn.Dense(size.vocabulary, name="head")(x)


MODELS = {
    "mlp": Mlp,
    "resnet50": ResNet50,
    "mobilenet": MobileNetV2,
    "lstm_lm": LstmLm,
    "transformer": Gpt,
    "transformer_scan": lambda size: Gpt(size, scan=True),
}
