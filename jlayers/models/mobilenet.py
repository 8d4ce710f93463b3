"""MobileNetV2."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated

import jax

from ..base.arguments import AboveZero, Fraction, Positive
from ..base.factory import factory
from ..base.layer import Layer
from ..combinators.merge import residual
from ..combinators.serial import serial
from .parts import classifier, conv_norm, multiple_of_8, preset
from .sizes import rows

# Expansion, channels, number of blocks and stride of the first.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
Stages = Annotated[Sequence[Sequence[int]], functools.partial(rows, size=4)]


@factory
def MobileNetV2(
    width: AboveZero = 1.0,
    *,
    stages: Stages = STAGES,
    padding: str = "SAME",
    epsilon: AboveZero = 1e-3,
    dropout_rate: Fraction = 0.2,
    classes: Positive | None = 1000,
) -> Layer:
    """Inverted residuals of depthwise convolutions (Sandler et al., 2018, arXiv:1801.04381).

    Parameters: 3,504,872 for a width of 1.

    Args:
      width: by which all channels are multiplied, but for the last of a width below 1.
      stages: of each the expansion, the channels, the number of blocks, and the first one's stride.
      padding: ``"SAME"`` as in TensorFlow's weights and transformers, or ``"BOTH"``, of one pixel
        on each side, as in torchvision's, which have an ``epsilon`` of 1e-5 too.
      epsilon: of batch norm.
      dropout_rate: before the last layer, in training.
      classes: size of the output; None for the features of the last stage.

    Shapes:
      x: (batch, height, width, channels). y: (batch, classes), or (batch, height / 32, width / 32,
      features) without classes.
      params: stem, stage_0/block_0, ..., last, head.

    Raises:
      LayerError: for another padding, and ``train=True`` without a key.

    >>> import jlayers as jl
    >>> model = jl.models.MobileNetV2()
    >>> jl.out_spec(model, jl.spec((8, 224, 224, 3))).shape
    (8, 1000)
    """
    preset("padding", padding, ("SAME", "BOTH"))

    def conv(features: int, size: int, **options: object) -> Layer:
        pad = "SAME" if padding == "SAME" else None
        shared = {"padding": pad, "momentum": 0.997, "epsilon": epsilon}
        return conv_norm(features, size, **shared, **options)  # type: ignore[arg-type]

    def block(before: int, after: int, expansion: int, strides: int) -> Layer:
        inner, relu6 = expansion * before, jax.nn.relu6
        expand = {} if expansion == 1 else {"expand": conv(inner, 1, activation=relu6)}
        layer = serial(
            **expand,
            depthwise=conv(inner, 3, strides=strides, groups=inner, activation=relu6),
            project=conv(after, 1),
        )
        return residual(layer) if strides == 1 and before == after else layer

    before = multiple_of_8(32 * width)
    layers = {"stem": conv(before, 3, strides=2, activation=jax.nn.relu6)}
    for stage, (expansion, channels, count, strides) in enumerate(stages):
        after, parts = multiple_of_8(channels * width), {}
        for i in range(count):
            parts[f"block_{i}"] = block(before, after, expansion, 1 if i else strides)
            before = after
        layers[f"stage_{stage}"] = serial(**parts)
    layers["last"] = conv(multiple_of_8(1280 * max(width, 1)), 1, activation=jax.nn.relu6)
    return classifier(layers, classes, dropout_rate)
