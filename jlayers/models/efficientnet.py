"""EfficientNet."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from ..base.arguments import AboveZero, Fraction, Positive
from ..base.factory import factory
from ..base.layer import Layer
from ..base.scope import Scope
from ..combinators.compose import compose
from ..combinators.merge import residual
from ..combinators.serial import serial
from ..layers import Conv, StochasticDepth
from .parts import HE, Parts, classifier, conv_norm, multiple_of_8, preset

# Factors of channels and of blocks, and the rate of dropout.
SIZES = {
    "b0": (1.0, 1.0, 0.2),
    "b1": (1.0, 1.1, 0.2),
    "b2": (1.1, 1.2, 0.3),
    "b3": (1.2, 1.4, 0.3),
    "b4": (1.4, 1.8, 0.4),
    "b5": (1.6, 2.2, 0.4),
    "b6": (1.8, 2.6, 0.5),
    "b7": (2.0, 3.1, 0.5),
}
# Expansion, size of the depthwise kernel, stride, channels and number of blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


@factory
def EfficientNet(
    size: str = "b0",
    *,
    width: AboveZero | None = None,
    depth: AboveZero | None = None,
    drop_rate: Fraction = 0.2,
    dropout_rate: Fraction | None = None,
    classes: Positive | None = 1000,
) -> Layer:
    """MobileNet's blocks with gates, scaled in width and depth (Tan & Le, 2019, arXiv:1905.11946).

    Parameters: 5,288,548 (b0), 7,794,184 (b1), 9,109,994 (b2), 12,233,232 (b3), 19,341,616 (b4),
    30,389,784 (b5), 43,040,704 (b6) and 66,347,960 (b7). These are for images of 224, 240, 260,
    300, 380, 456, 528 and 600 pixels.

    Args:
      size: ``"b0"`` to ``"b7"``.
      width, depth: by which channels and numbers of blocks are multiplied, instead of those of
        ``size``.
      drop_rate: of stochastic depth behind the last block, in training; it rises from 0.
      dropout_rate: before the last layer, in training; by default that of the paper for ``size``.
      classes: size of the output; None for the features of the last stage.

    Shapes:
      x: (batch, height, width, channels). y: (batch, classes), or (batch, height / 32, width / 32,
      features) without classes.
      params: stem, stage_0/block_0, ..., last, head.

    Raises:
      LayerError: for another size, and ``train=True`` without a key.

    >>> import jlayers as jl
    >>> model = jl.models.EfficientNet("b0")
    >>> jl.out_spec(model, jl.spec((8, 224, 224, 3))).shape
    (8, 1000)
    """
    wider, deeper, dropout = SIZES[preset("size", size, SIZES)]
    wider, deeper = width or wider, depth or deeper
    before = multiple_of_8(32 * wider)
    layers = {"stem": _conv(before, 3, strides=2, activation=jax.nn.silu)}
    counts = [math.ceil(deeper * count) for *_, count in STAGES]
    done = 0
    for stage, (expansion, kernel_size, strides, channels, _) in enumerate(STAGES):
        after, parts = multiple_of_8(channels * wider), {}
        for i in range(counts[stage]):
            inner = _block(before, after, expansion, kernel_size, 1 if i else strides)
            drop = StochasticDepth(drop_rate * done / sum(counts))
            parts[f"block_{i}"] = residual(serial(**inner, drop=drop)) if i else serial(**inner)
            before, done = after, done + 1
        layers[f"stage_{stage}"] = serial(**parts)
    layers["last"] = _conv(multiple_of_8(1280 * wider), 1, activation=jax.nn.silu)
    return classifier(layers, classes, dropout if dropout_rate is None else dropout_rate)


def _block(before: int, after: int, expansion: int, kernel_size: int, strides: int) -> Parts:
    inner, silu = expansion * before, jax.nn.silu
    parts: Parts = {}
    if expansion > 1:
        parts["expand"] = _conv(inner, 1, activation=silu)
    parts["depthwise"] = _conv(inner, kernel_size, strides=strides, groups=inner, activation=silu)
    # A quarter of the channels before they are expanded.
    reduce, restore = (Conv(n, (1, 1), kernel_init=HE) for n in (max(1, before // 4), inner))
    parts["gate"] = compose(_gate, reduce=reduce, expand=restore)
    parts["project"] = _conv(after, 1)
    return parts


def _gate(f: Scope, x: jax.Array) -> jax.Array:
    """Squeeze and excitation (Hu et al., 2017, arXiv:1709.01507)."""
    mean = jnp.mean(x, (1, 2), keepdims=True)
    return x * jax.nn.sigmoid(f.expand(jax.nn.silu(f.reduce(mean))))


_conv = functools.partial(conv_norm, padding="SAME", momentum=0.99, epsilon=1e-3)
