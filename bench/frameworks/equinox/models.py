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

from ..sizes import EPSILON, MOMENTUM, LanguageModel, MobileNet, Perceptron, ResNet, Transformer


def keys(key: Any) -> Iterator[Any]:
    while True:
        key, one = jax.random.split(key)
        yield one


class ConvNorm(eqx.Module):
    conv: nn.Conv2d
    norm: nn.BatchNorm

    def __init__(self, channels, features, size, stride=1, groups=1, *, key):  # type: ignore[no-untyped-def]
        self.conv = nn.Conv2d(
            channels, features, size, stride, size // 2, groups=groups, use_bias=False, key=key
        )
        self.norm = nn.BatchNorm(features, "batch", eps=EPSILON, momentum=MOMENTUM, mode="batch")

    def __call__(self, x: Any, state: Any) -> Any:
        return self.norm(self.conv(x), state)


class Bottleneck(eqx.Module):
    a: ConvNorm
    b: ConvNorm
    c: ConvNorm
    shortcut: ConvNorm | None

    def __init__(self, channels: int, width: int, stride: int, project: bool, *, key: Any):
        make = keys(key)
        self.a = ConvNorm(channels, width, 1, key=next(make))
        self.b = ConvNorm(width, width, 3, stride, key=next(make))
        self.c = ConvNorm(width, 4 * width, 1, key=next(make))
        project_key = next(make)
        self.shortcut = (
            ConvNorm(channels, 4 * width, 1, stride, key=project_key) if project else None
        )

    def __call__(self, x: Any, state: Any) -> Any:
        y, state = self.a(x, state)
        y, state = self.b(jax.nn.relu(y), state)
        y, state = self.c(jax.nn.relu(y), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return jax.nn.relu(x + y), state


class ResNet50(eqx.Module):
    stem: ConvNorm
    pool: nn.MaxPool2d
    blocks: list[Bottleneck]
    head: nn.Linear

    def __init__(self, size: ResNet, *, key: Any):
        make = keys(key)
        self.stem = ConvNorm(3, size.width, 7, 2, key=next(make))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.blocks, channels = [], size.width
        for width, stride, project in size.bottlenecks():
            self.blocks.append(Bottleneck(channels, width, stride, project, key=next(make)))
            channels = 4 * width
        self.head = nn.Linear(channels, size.classes, key=next(make))

    def __call__(self, x: Any, state: Any) -> Any:
        x, state = self.stem(x, state)
        x = self.pool(jax.nn.relu(x))
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(jnp.mean(x, (1, 2))), state


class Inverted(eqx.Module):
    expand: ConvNorm | None
    depthwise: ConvNorm
    project: ConvNorm
    residual: bool = eqx.field(static=True)

    def __init__(self, channels: int, inner: int, features: int, stride: int, *, key: Any):
        a, b, c = jax.random.split(key, 3)
        self.expand = ConvNorm(channels, inner, 1, key=a) if inner != channels else None
        self.depthwise = ConvNorm(inner, inner, 3, stride, inner, key=b)
        self.project = ConvNorm(inner, features, 1, key=c)
        self.residual = stride == 1 and channels == features

    def __call__(self, x: Any, state: Any) -> Any:
        y = x
        if self.expand is not None:
            y, state = self.expand(y, state)
            y = jax.nn.relu6(y)
        y, state = self.depthwise(y, state)
        y, state = self.project(jax.nn.relu6(y), state)
        return (x + y if self.residual else y), state


class MobileNetV2(eqx.Module):
    stem: ConvNorm
    blocks: list[Inverted]
    last: ConvNorm
    head: nn.Linear

    def __init__(self, size: MobileNet, *, key: Any):
        make, blocks = keys(key), size.inverted()
        self.stem = ConvNorm(3, size.stem, 3, 2, key=next(make))
        self.blocks = [Inverted(*block, key=next(make)) for block in blocks]
        self.last = ConvNorm(blocks[-1][2], size.last, 1, key=next(make))
        self.head = nn.Linear(size.last, size.classes, key=next(make))

    def __call__(self, x: Any, state: Any) -> Any:
        x, state = self.stem(x, state)
        x = jax.nn.relu6(x)
        for block in self.blocks:
            x, state = block(x, state)
        x, state = self.last(x, state)
        return self.head(jnp.mean(jax.nn.relu6(x), (1, 2))), state


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


class Lstm(eqx.Module):
    cell: nn.LSTMCell

    def __init__(self, width: int, features: int, *, key: Any):
        self.cell = nn.LSTMCell(width, features, key=key)

    def __call__(self, x: Any) -> Any:
        def step(carry: Any, value: Any) -> Any:
            carry = self.cell(value, carry)
            return carry, carry[0]

        zeros = jnp.zeros(self.cell.hidden_size)
        return jax.lax.scan(step, (zeros, zeros), x)[1]


class LstmLm(eqx.Module):
    tokens: nn.Embedding
    lstm: list[Lstm]
    head: nn.Linear

    def __init__(self, size: LanguageModel, *, key: Any):
        make = keys(key)
        self.tokens = nn.Embedding(size.vocabulary, size.width, key=next(make))
        widths = [size.width] + [size.features] * (size.layers - 1)
        self.lstm = [Lstm(width, size.features, key=next(make)) for width in widths]
        self.head = nn.Linear(size.features, size.vocabulary, key=next(make))

    def __call__(self, ids: Any, state: Any) -> Any:
        x = jax.vmap(self.tokens)(ids)
        for layer in self.lstm:
            x = layer(x)
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
        self.attend = nn.MultiheadAttention(
            size.heads,
            size.width,
            use_query_bias=True,
            use_key_bias=True,
            use_value_bias=True,
            use_output_bias=True,
            key=a,
        )
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


MODELS = {
    "mlp": Mlp,
    "resnet50": ResNet50,
    "mobilenet": MobileNetV2,
    "lstm_lm": LstmLm,
    "transformer": Gpt,
    "transformer_scan": lambda size, key: Gpt(size, scan=True, key=key),
}
