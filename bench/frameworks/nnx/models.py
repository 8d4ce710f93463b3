"""In Flax NNX."""

import itertools
from typing import Any

import jax.numpy as jnp
from flax import nnx

from .. import sizes
from ..sizes import EPSILON, MOMENTUM, LanguageModel, Perceptron, Transformer


class ConvNorm(nnx.Module):
    def __init__(self, spec: sizes.ConvNorm, rngs: nnx.Rngs):
        shape = (spec.channels, spec.features, (spec.size, spec.size), spec.stride)
        options = {"padding": spec.size // 2, "feature_group_count": spec.groups}
        self.conv = nnx.Conv(*shape, **options, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(spec.features, momentum=MOMENTUM, epsilon=EPSILON, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.norm(self.conv(x))


class ConvBlock(nnx.Module):
    def __init__(self, spec: sizes.ConvBlock, activation: Any, rngs: nnx.Rngs):
        self.convs = nnx.List([ConvNorm(conv, rngs) for conv in spec.convs])
        self.shortcut = spec.shortcut and ConvNorm(spec.shortcut, rngs)
        self.residual, self.activated = spec.residual, spec.activated
        self.activation = activation

    def __call__(self, x: Any) -> Any:
        y = self.convs[0](x)
        for conv in self.convs[1:]:
            y = conv(self.activation(y))
        x = x if self.shortcut is None else self.shortcut(x)
        y = x + y if self.residual else y
        return self.activation(y) if self.activated else y


class ConvNet(nnx.Module):
    def __init__(self, size: sizes.ConvNet, *, rngs: nnx.Rngs):
        self.activation, self.pooled = getattr(nnx, size.activation), size.pooled
        self.stem = ConvNorm(size.stem, rngs)
        self.blocks = nnx.List([ConvBlock(spec, self.activation, rngs) for spec in size.blocks])
        self.last = size.last and ConvNorm(size.last, rngs)
        self.head = nnx.Linear(size.head_inputs, size.classes, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.activation(self.stem(x))
        x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))) if self.pooled else x
        for block in self.blocks:
            x = block(x)
        x = x if self.last is None else self.activation(self.last(x))
        return self.head(jnp.mean(x, (1, 2)))


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
        sizes = [(inputs, size.features) for inputs in size.lstm_inputs()]
        cells = [nnx.OptimizedLSTMCell(*pair, rngs=rngs) for pair in sizes]
        self.lstm = nnx.List([nnx.RNN(cell, rngs=rngs) for cell in cells])
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


class Decoder(nnx.Module):
    """A transformer without positions that takes one id at a time."""

    def __init__(self, size: Transformer, *, rngs: nnx.Rngs):
        self.tokens = nnx.Embed(size.vocabulary, size.width, rngs=rngs)
        self.blocks = nnx.List([Block(size, rngs=rngs) for _ in range(size.blocks)])
        self.norm = nnx.LayerNorm(size.width, epsilon=EPSILON, rngs=rngs)
        self.head = nnx.Linear(size.width, size.vocabulary, rngs=rngs)

    def init_cache(self, shape: tuple[int, ...]) -> None:
        for block in self.blocks:
            block.attend.set_attributes(decode=True)
            block.attend.init_cache((*shape, block.attend.in_features))

    def __call__(self, ids: Any) -> Any:
        x = self.tokens(ids)
        for block in self.blocks:
            x = x + block.attend(block.attend_norm(x))
            x = x + block.down(nnx.gelu(block.up(block.mlp_norm(x))))
        return self.head(self.norm(x))


MODELS: dict[str, Any] = {"mlp": Mlp, "conv_net": ConvNet, "lstm_lm": LstmLm, "transformer": Gpt}
MODELS["transformer_scan"] = lambda size, rngs: Gpt(size, scan=True, rngs=rngs)
