"""In Equinox: one example a module, channels first; a batch goes through under ``jax.vmap``.

Every model is ``model(x, state)`` to (logits, state), where batch norm's statistics are the state.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import nn

from .. import sizes
from ..sizes import EPSILON, MOMENTUM, LanguageModel, Perceptron, Transformer


def keys(key: Any) -> Iterator[Any]:
    while True:
        key, one = jax.random.split(key)
        yield one


class ConvNorm(eqx.Module):
    conv: nn.Conv2d
    norm: nn.BatchNorm

    def __init__(self, spec: sizes.ConvNorm, *, key: Any):
        shape = (spec.channels, spec.features, spec.size, spec.stride, spec.size // 2)
        self.conv = nn.Conv2d(*shape, groups=spec.groups, use_bias=False, key=key)
        options = {"eps": EPSILON, "momentum": MOMENTUM, "mode": "batch"}
        self.norm = nn.BatchNorm(spec.features, "batch", **options)

    def __call__(self, x: Any, state: Any) -> Any:
        return self.norm(self.conv(x), state)


class ConvBlock(eqx.Module):
    convs: list[ConvNorm]
    shortcut: ConvNorm | None
    spec: sizes.ConvBlock = eqx.field(static=True)
    activation: Any = eqx.field(static=True)

    def __init__(self, spec: sizes.ConvBlock, activation: Any, *, key: Any):
        make = keys(key)
        self.convs = [ConvNorm(conv, key=next(make)) for conv in spec.convs]
        self.shortcut = spec.shortcut and ConvNorm(spec.shortcut, key=next(make))
        self.spec, self.activation = spec, activation

    def __call__(self, x: Any, state: Any) -> Any:
        y, state = self.convs[0](x, state)
        for conv in self.convs[1:]:
            y, state = conv(self.activation(y), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        y = x + y if self.spec.residual else y
        return (self.activation(y) if self.spec.activated else y), state


class ConvNet(eqx.Module):
    stem: ConvNorm
    pool: nn.MaxPool2d | None
    blocks: list[ConvBlock]
    last: ConvNorm | None
    head: nn.Linear
    activation: Any = eqx.field(static=True)

    def __init__(self, size: sizes.ConvNet, *, key: Any):
        make, self.activation = keys(key), getattr(jax.nn, size.activation)
        self.stem = ConvNorm(size.stem, key=next(make))
        self.pool = nn.MaxPool2d(3, 2, 1) if size.pooled else None
        self.blocks = [ConvBlock(spec, self.activation, key=next(make)) for spec in size.blocks]
        self.last = size.last and ConvNorm(size.last, key=next(make))
        self.head = nn.Linear(size.head_inputs, size.classes, key=next(make))

    def __call__(self, x: Any, state: Any) -> Any:
        x, state = self.stem(x, state)
        x = self.activation(x)
        x = x if self.pool is None else self.pool(x)
        for block in self.blocks:
            x, state = block(x, state)
        if self.last is not None:
            x, state = self.last(x, state)
            x = self.activation(x)
        return self.head(jnp.mean(x, (1, 2))), state


class Mlp(eqx.Module):
    dense: list[nn.Linear]
    head: nn.Linear

    def __init__(self, size: Perceptron, *, key: Any):
        make = keys(key)
        pairs = itertools.pairwise((size.inputs, *size.features))
        self.dense = [nn.Linear(*pair, key=next(make)) for pair in pairs]
        self.head = nn.Linear(size.features[-1], size.classes, key=next(make))

    def __call__(self, x: Any, state: Any) -> Any:
        for layer in self.dense:
            x = jax.nn.relu(layer(x))
        return self.head(x), state


def unroll(cell: nn.LSTMCell, x: Any) -> Any:
    def step(carry: Any, value: Any) -> Any:
        carry = cell(value, carry)
        return carry, carry[0]

    zeros = jnp.zeros(cell.hidden_size)
    return jax.lax.scan(step, (zeros, zeros), x)[1]


class LstmLm(eqx.Module):
    tokens: nn.Embedding
    lstm: list[nn.LSTMCell]
    head: nn.Linear

    def __init__(self, size: LanguageModel, *, key: Any):
        make = keys(key)
        self.tokens = nn.Embedding(size.vocabulary, size.width, key=next(make))
        pairs = [(inputs, size.features) for inputs in size.lstm_inputs()]
        self.lstm = [nn.LSTMCell(*pair, key=next(make)) for pair in pairs]
        self.head = nn.Linear(size.features, size.vocabulary, key=next(make))

    def __call__(self, ids: Any, state: Any) -> Any:
        x = jax.vmap(self.tokens)(ids)
        for cell in self.lstm:
            x = unroll(cell, x)
        return jax.vmap(self.head)(x), state


class Block(eqx.Module):
    attend_norm: nn.LayerNorm
    attend: nn.MultiheadAttention
    mlp_norm: nn.LayerNorm
    up: nn.Linear
    down: nn.Linear

    def __init__(self, size: Transformer, *, key: Any):
        a, b, c = jax.random.split(key, 3)
        self.attend_norm = nn.LayerNorm(size.width, eps=EPSILON)
        biases = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
        self.attend = nn.MultiheadAttention(size.heads, size.width, **biases, key=a)
        self.mlp_norm = nn.LayerNorm(size.width, eps=EPSILON)
        self.up = nn.Linear(size.width, 4 * size.width, key=b)
        self.down = nn.Linear(4 * size.width, size.width, key=c)

    def __call__(self, x: Any) -> Any:
        y = jax.vmap(self.attend_norm)(x)
        x = x + self.attend(y, y, y, mask=jnp.tril(jnp.ones((len(x), len(x)), bool)))
        y = jax.vmap(self.up)(jax.vmap(self.mlp_norm)(x))
        return x + jax.vmap(self.down)(jax.nn.gelu(y))


class Gpt(eqx.Module):
    tokens: nn.Embedding
    positions: nn.Embedding
    blocks: Any
    norm: nn.LayerNorm
    head: nn.Linear

    def __init__(self, size: Transformer, scan: bool = False, *, key: Any):
        make = keys(key)
        self.tokens = nn.Embedding(size.vocabulary, size.width, key=next(make))
        self.positions = nn.Embedding(size.steps, size.width, key=next(make))
        each = jax.random.split(next(make), size.blocks)
        if scan:
            self.blocks = eqx.filter_vmap(lambda key: Block(size, key=key))(each)
        else:
            self.blocks = [Block(size, key=key) for key in each]
        self.norm = nn.LayerNorm(size.width, eps=EPSILON)
        self.head = nn.Linear(size.width, size.vocabulary, key=next(make))

    def __call__(self, ids: Any, state: Any) -> Any:
        x = jax.vmap(self.tokens)(ids) + jax.vmap(self.positions)(jnp.arange(len(ids)))
        if isinstance(self.blocks, list):
            for block in self.blocks:
                x = block(x)
        else:
            arrays, static = eqx.partition(self.blocks, eqx.is_array)

            def through(x: Any, arrays: Any) -> Any:
                return eqx.combine(arrays, static)(x), None

            x, _ = jax.lax.scan(through, x, arrays)
        return jax.vmap(self.head)(jax.vmap(self.norm)(x)), state


MODELS: dict[str, Any] = {"mlp": Mlp, "conv_net": ConvNet, "lstm_lm": LstmLm, "transformer": Gpt}
MODELS["transformer_scan"] = lambda size, key: Gpt(size, scan=True, key=key)
