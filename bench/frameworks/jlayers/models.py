"""In jlayers."""

from typing import Any

import jax
import jax.numpy as jnp

import jlayers as jl

from .. import sizes
from ..sizes import EPSILON, MOMENTUM, LanguageModel, Perceptron, Transformer


def conv_norm(spec: sizes.ConvNorm) -> jl.Layer:
    pad, options = spec.size // 2, {"groups": spec.groups, "bias": False}
    shape: Any = {"strides": spec.stride, "padding": ((pad, pad), (pad, pad))}
    return jl.serial(
        conv=jl.Conv(spec.features, (spec.size, spec.size), **shape, **options),
        norm=jl.BatchNorm(momentum=MOMENTUM, epsilon=EPSILON),
    )


def conv_block(spec: sizes.ConvBlock, activation: Any) -> jl.Layer:
    parts: dict[str, Any] = {"convs_0": conv_norm(spec.convs[0])}
    for i, conv in enumerate(spec.convs[1:], 1):
        parts |= {f"activation_{i}": activation, f"convs_{i}": conv_norm(conv)}
    block = jl.serial(**parts)
    if spec.residual:
        block = jl.residual(block, spec.shortcut and conv_norm(spec.shortcut))
    return jl.serial(block, activation) if spec.activated else block


def conv_net(size: sizes.ConvNet) -> jl.Layer:
    activation = getattr(jax.nn, size.activation)
    pool = {"pool": jl.MaxPool(3, strides=2, padding=((1, 1), (1, 1)))} if size.pooled else {}
    blocks = [conv_block(spec, activation) for spec in size.blocks]
    last = {"last": conv_norm(size.last), "activation_last": activation} if size.last else {}
    return jl.serial(
        stem=conv_norm(size.stem),
        activation=activation,
        **pool,
        **{f"blocks_{i}": block for i, block in enumerate(blocks)},
        **last,
        mean=jl.GlobalAvgPool(),
        head=jl.Dense(size.classes),
    )


def mlp(size: Perceptron) -> jl.Layer:
    parts: dict[str, Any] = {}
    for i, features in enumerate(size.features):
        parts |= {f"dense_{i}": jl.Dense(features), f"relu_{i}": jax.nn.relu}
    return jl.serial(**parts, head=jl.Dense(size.classes))


def lstm_lm(size: LanguageModel) -> jl.Layer:
    return jl.serial(
        tokens=jl.Embedding(size.vocabulary, size.width),
        **{f"lstm_{i}": jl.LSTM(size.features) for i in range(size.layers)},
        head=jl.Dense(size.vocabulary),
    )


def block(size: Transformer, **options: Any) -> jl.Layer:
    """A block; ``options`` are those of its attention."""

    def body(f: Any, x: jax.Array) -> jax.Array:
        x = x + f.attend(f.attend_norm(x))
        return x + f.down(jax.nn.gelu(f.up(f.mlp_norm(x))))

    return jl.compose(
        body,
        attend_norm=jl.LayerNorm(epsilon=EPSILON),
        attend=jl.SelfAttention(size.heads, causal=True, **options),
        mlp_norm=jl.LayerNorm(epsilon=EPSILON),
        up=jl.Dense(4 * size.width),
        down=jl.Dense(size.width),
    )


def embed(size: Transformer) -> jl.Layer:
    def body(f: Any, ids: jax.Array) -> jax.Array:
        x = f.tokens(ids)
        return x + jnp.broadcast_to(f.positions(jnp.arange(ids.shape[1])), x.shape)

    return jl.compose(
        body,
        tokens=jl.Embedding(size.vocabulary, size.width),
        positions=jl.Embedding(size.steps, size.width),
    )


def transformer(size: Transformer, repeated: bool = True) -> jl.Layer:
    return with_blocks(size, repeated, block(size), embed=embed(size))


def rope_transformer(size: Transformer, repeated: bool) -> jl.Layer:
    """A transformer with rotary positions, which a stream can continue."""
    tokens = jl.Embedding(size.vocabulary, size.width)
    return with_blocks(size, repeated, block(size, rope=True), tokens=tokens)


def with_blocks(size: Transformer, repeated: bool, one: jl.Layer, **first: jl.Layer) -> jl.Layer:
    blocks = {f"blocks_{i}": one for i in range(size.blocks)}
    return jl.serial(
        **first,
        **({"blocks": jl.repeat(one, size.blocks)} if repeated else blocks),
        norm=jl.LayerNorm(epsilon=EPSILON),
        head=jl.Dense(size.vocabulary),
    )


MODELS = {
    "mlp": mlp,
    "conv_net": conv_net,
    "lstm_lm": lstm_lm,
    "transformer": transformer,
}
MODELS["transformer_loop"] = lambda size: transformer(size, repeated=False)
