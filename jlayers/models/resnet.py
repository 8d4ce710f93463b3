"""ResNet, versions 1, 1.5 and D."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from ..base.arguments import Positive
from ..base.factory import factory
from ..base.layer import Layer
from ..base.scope import Scope
from ..combinators.compose import compose
from ..combinators.serial import serial
from ..layers import AvgPool, MaxPool
from .parts import Parts, classifier, conv_norm, preset
from .sizes import counts

# The blocks of each stage, and whether they are bottlenecks.
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


@factory
def ResNet(
    depth: int | Sequence[int] = 50,
    *,
    bottleneck: bool | None = None,
    version: str = "1.5",
    width: Positive = 64,
    classes: Positive | None = 1000,
) -> Layer:
    """A residual network for images (He et al., 2015, arXiv:1512.03385).

    Parameters: 11,689,512 (18), 21,797,672 (34), 25,557,032 (50), 44,549,160 (101) and 60,192,808
    (152), as in torchvision.

    Args:
      depth: 18, 34, 50, 101 or 152, or the number of blocks in each stage.
      bottleneck: whether a block has convolutions of 1, 3 and 1 pixels, and not two of 3; by
        default what the paper has for the depth, and True for a number of blocks.
      version: ``"1"``, where the first convolution of a bottleneck has the stride; ``"1.5"``, where
        the second one has it, as in torchvision and transformers; or ``"D"``, where three small
        convolutions replace the first large one, and a shortcut with a stride takes means
        (He et al., 2018, arXiv:1812.01187).
      width: channels of the stem; those of stage i are ``2 ** i`` times as many, and those of its
        output four times these where there are bottlenecks.
      classes: size of the output; None for the features of the last stage.

    Shapes:
      x: (batch, height, width, channels). y: (batch, classes), or (batch, height / 32, width / 32,
      features) without classes.
      params: stem, stage_0/block_0, ..., head.

    Raises:
      LayerError: for another depth or version.

    >>> import jlayers as jl
    >>> model = jl.models.ResNet(50)
    >>> jl.out_spec(model, jl.spec((8, 224, 224, 3))).shape
    (8, 1000)
    """
    preset("version", version, ("1", "1.5", "D"))
    if isinstance(depth, tuple | list):
        depth, deep = counts("depth", depth), True
    else:
        depth, deep = DEPTHS[preset("depth", depth, DEPTHS)]
    deep = deep if bottleneck is None else bottleneck
    layers: Parts = {"stem": _stem(width, version), "pool": MaxPool(3, strides=2, padding=1)}
    before = width
    for stage, count in enumerate(depth):
        features = width * 2**stage
        parts: Parts = {}
        for i in range(count):
            strides = 2 if stage and not i else 1
            parts[f"block_{i}"] = _block(before, features, strides, deep, version)
            before = 4 * features if deep else features
        layers[f"stage_{stage}"] = serial(**parts)
    return classifier(layers, classes)


def _stem(width: int, version: str) -> Layer:
    relu, half = jax.nn.relu, max(width // 2, 1)
    if version != "D":
        return conv_norm(width, 7, strides=2, activation=relu)
    return serial(
        conv_0=conv_norm(half, 3, strides=2, activation=relu),
        conv_1=conv_norm(half, 3, activation=relu),
        conv_2=conv_norm(width, 3, activation=relu),
    )


def _block(before: int, features: int, strides: int, bottleneck: bool, version: str) -> Layer:
    relu = jax.nn.relu
    after = 4 * features if bottleneck else features
    if bottleneck:
        first, second = (strides, 1) if version == "1" else (1, strides)
        body = serial(
            conv_0=conv_norm(features, 1, strides=first, activation=relu),
            conv_1=conv_norm(features, 3, strides=second, activation=relu),
            conv_2=conv_norm(after, 1),
        )
    else:
        body = serial(
            conv_0=conv_norm(features, 3, strides=strides, activation=relu),
            conv_1=conv_norm(after, 3),
        )
    if strides == 1 and before == after:
        return compose(_sum, body=body)
    shortcut = conv_norm(after, 1, strides=strides)
    if version == "D" and strides > 1:
        # A stride of the convolution would leave out three of four pixels.
        pool = AvgPool(strides, ceil_mode=True)
        shortcut = serial(pool=pool, conv=conv_norm(after, 1))
    return compose(_sum, body=body, shortcut=shortcut)


def _sum(f: Scope, x: jax.Array) -> jax.Array:
    shortcut = f.shortcut(x) if "shortcut" in f.children else x
    return jax.nn.relu(shortcut + f.body(x))
