"""In Flax NNX."""

import itertools
from typing import Any

import jax.numpy as jnp
from flax import nnx

from ..sizes import EPSILON, MOMENTUM, LanguageModel, MobileNet, Perceptron, ResNet, Transformer


class ConvNorm(nnx.Module):
    def __init__(
        self,
        channels: int,
        features: int,
        size: int,
        stride: int = 1,
        groups: int = 1,
        *,
        rngs: nnx.Rngs,
    ):
        self.conv = nnx.Conv(
            channels,
            features,
            (size, size),
            stride,
            padding=size // 2,
            feature_group_count=groups,
            use_bias=False,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(features, momentum=MOMENTUM, epsilon=EPSILON, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.norm(self.conv(x))


class Bottleneck(nnx.Module):
    def __init__(self, channels: int, width: int, stride: int, project: bool, *, rngs: nnx.Rngs):
        self.a = ConvNorm(channels, width, 1, rngs=rngs)
        self.b = ConvNorm(width, width, 3, stride, rngs=rngs)
        self.c = ConvNorm(width, 4 * width, 1, rngs=rngs)
        self.shortcut = ConvNorm(channels, 4 * width, 1, stride, rngs=rngs) if project else None

    def __call__(self, x: Any) -> Any:
        y = self.c(nnx.relu(self.b(nnx.relu(self.a(x)))))
        return nnx.relu((x if self.shortcut is None else self.shortcut(x)) + y)


class ResNet50(nnx.Module):
    def __init__(self, size: ResNet, *, rngs: nnx.Rngs):
        self.stem = ConvNorm(3, size.width, 7, 2, rngs=rngs)
        blocks, channels = [], size.width
        for width, stride, project in size.bottlenecks():
            blocks.append(Bottleneck(channels, width, stride, project, rngs=rngs))
            channels = 4 * width
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(channels, size.classes, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.max_pool(nnx.relu(self.stem(x)), (3, 3), (2, 2), ((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, (1, 2)))


class Inverted(nnx.Module):
    def __init__(self, channels: int, inner: int, features: int, stride: int, *, rngs: nnx.Rngs):
        self.expand = ConvNorm(channels, inner, 1, rngs=rngs) if inner != channels else None
        self.depthwise = ConvNorm(inner, inner, 3, stride, inner, rngs=rngs)
        self.project = ConvNorm(inner, features, 1, rngs=rngs)
        self.residual = stride == 1 and channels == features

    def __call__(self, x: Any) -> Any:
        y = x if self.expand is None else nnx.relu6(self.expand(x))
        y = self.project(nnx.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class MobileNetV2(nnx.Module):
    def __init__(self, size: MobileNet, *, rngs: nnx.Rngs):
        blocks = size.inverted()
        self.stem = ConvNorm(3, size.stem, 3, 2, rngs=rngs)
        self.blocks = nnx.List([Inverted(*block, rngs=rngs) for block in blocks])
        self.last = ConvNorm(blocks[-1][2], size.last, 1, rngs=rngs)
        self.head = nnx.Linear(size.last, size.classes, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(nnx.relu6(self.last(x)), (1, 2)))


class Mlp(nnx.Module):
    def __init__(self, size: Perceptron, *, rngs: nnx.Rngs):
        pairs = itertools.pairwise((size.inputs, *size.features))
        self.dense = nnx.List([nnx.Linear(*pair, rngs=rngs) for pair in pairs])
        self.head = nnx.Linear(size.features[-1], size.classes, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        for layer in self.dense:
            x = nnx.relu(layer(x))
        return self.head(x)


class LstmLm(nnx.Module):
    def __init__(self, size: LanguageModel, *, rngs: nnx.Rngs):
        self.tokens = nnx.Embed(size.vocabulary, size.width, rngs=rngs)
        widths = [size.width] + [size.features] * (size.layers - 1)
        self.lstm = nnx.List(
            [
                nnx.RNN(nnx.OptimizedLSTMCell(width, size.features, rngs=rngs), rngs=rngs)
                for width in widths
            ]
        )
        self.head = nnx.Linear(size.features, size.vocabulary, rngs=rngs)

    def __call__(self, ids: Any) -> Any:
        x = self.tokens(ids)
        for layer in self.lstm:
            x = layer(x)
        return self.head(x)


class Block(nnx.Module):
    def __init__(self, size: Transformer, *, rngs: nnx.Rngs):
        self.attend_norm = nnx.LayerNorm(size.width, epsilon=EPSILON, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(size.heads, size.width, decode=False, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(size.width, epsilon=EPSILON, rngs=rngs)
        self.up = nnx.Linear(size.width, 4 * size.width, rngs=rngs)
        self.down = nnx.Linear(4 * size.width, size.width, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = x + self.attend(self.attend_norm(x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.down(nnx.gelu(self.up(self.mlp_norm(x))))


class Gpt(nnx.Module):
    def __init__(self, size: Transformer, scan: bool = False, *, rngs: nnx.Rngs):
        self.tokens = nnx.Embed(size.vocabulary, size.width, rngs=rngs)
        self.positions = nnx.Embed(size.steps, size.width, rngs=rngs)
        if scan:

            @nnx.split_rngs(splits=size.blocks)
            @nnx.vmap(in_axes=(0,), out_axes=0)
            def stacked(rngs: nnx.Rngs) -> Block:
                return Block(size, rngs=rngs)

            self.blocks = stacked(rngs)
        else:
            self.blocks = nnx.List([Block(size, rngs=rngs) for _ in range(size.blocks)])
        self.scan = scan
        self.norm = nnx.LayerNorm(size.width, epsilon=EPSILON, rngs=rngs)
        self.head = nnx.Linear(size.width, size.vocabulary, rngs=rngs)

    def __call__(self, ids: Any) -> Any:
        x = self.tokens(ids) + self.positions(jnp.arange(ids.shape[1]))
        if self.scan:

            @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            def through(x: Any, block: Block) -> Any:
                return block(x)

            x = through(x, self.blocks)
        else:
            for block in self.blocks:
                x = block(x)
        return self.head(self.norm(x))


MODELS = {
    "mlp": Mlp,
    "resnet50": ResNet50,
    "mobilenet": MobileNetV2,
    "lstm_lm": LstmLm,
    "transformer": Gpt,
    "transformer_scan": lambda size, rngs: Gpt(size, scan=True, rngs=rngs),
}
