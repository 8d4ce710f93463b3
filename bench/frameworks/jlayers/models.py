"""In jlayers."""

from typing import Any

import jax
import jax.numpy as jnp

import jlayers as jl

from ..sizes import EPSILON, MOMENTUM, LanguageModel, MobileNet, Perceptron, ResNet, Transformer


def conv_norm(features: int, size: int, stride: int = 1, groups: int = 1) -> jl.Layer:
    pad = size // 2
    return jl.serial(
        conv=jl.Conv(
            features,
            (size, size),
            strides=stride,
            padding=((pad, pad), (pad, pad)),
            groups=groups,
            bias=False,
        ),
        norm=jl.BatchNorm(momentum=MOMENTUM, epsilon=EPSILON),
    )


def resnet50(size: ResNet) -> jl.Layer:
    def bottleneck(width: int, stride: int, project: bool) -> jl.Layer:
        body = jl.serial(
            a=conv_norm(width, 1),
            relu_a=jax.nn.relu,
            b=conv_norm(width, 3, stride),
            relu_b=jax.nn.relu,
            c=conv_norm(4 * width, 1),
        )
        shortcut = conv_norm(4 * width, 1, stride) if project else None
        return jl.serial(jl.residual(body, shortcut), jax.nn.relu)

    return jl.serial(
        stem=conv_norm(size.width, 7, 2),
        relu=jax.nn.relu,
        pool=jl.MaxPool(3, strides=2, padding=((1, 1), (1, 1))),
        **{f"blocks_{i}": bottleneck(*block) for i, block in enumerate(size.bottlenecks())},
        mean=jl.GlobalAvgPool(),
        head=jl.Dense(size.classes),
    )


def mobilenet(size: MobileNet) -> jl.Layer:
    def inverted(channels: int, inner: int, features: int, stride: int) -> jl.Layer:
        expand = {"expand": conv_norm(inner, 1), "relu_a": jax.nn.relu6}
        body = jl.serial(
            **(expand if inner != channels else {}),
            depthwise=conv_norm(inner, 3, stride, groups=inner),
            relu_b=jax.nn.relu6,
            project=conv_norm(features, 1),
        )
        return jl.residual(body) if stride == 1 and channels == features else body

    return jl.serial(
        stem=conv_norm(size.stem, 3, 2),
        relu=jax.nn.relu6,
        **{f"blocks_{i}": inverted(*block) for i, block in enumerate(size.inverted())},
        last=conv_norm(size.last, 1),
        relu_last=jax.nn.relu6,
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
    """``options`` are those of its attention."""

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
    one = block(size)
    return jl.serial(
        embed=embed(size),
        **(
            {"blocks": jl.repeat(one, size.blocks)}
            if repeated
            else {f"blocks_{i}": one for i in range(size.blocks)}
        ),
        norm=jl.LayerNorm(epsilon=EPSILON),
        head=jl.Dense(size.vocabulary),
    )


MODELS = {
    "mlp": mlp,
    "resnet50": resnet50,
    "mobilenet": mobilenet,
    "lstm_lm": lstm_lm,
    "transformer": transformer,
    "transformer_loop": lambda size: transformer(size, repeated=False),
}
