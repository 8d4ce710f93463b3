"""ConvNeXt."""

from __future__ import annotations

from jax.nn import initializers

from ..base.arguments import Fraction, NonNegative, Positive
from ..base.errors import LayerError
from ..base.factory import factory
from ..base.layer import Layer
from ..combinators.merge import residual
from ..combinators.serial import serial
from ..layers import Affine, Conv, Dense, LayerNorm, StochasticDepth
from .parts import Parts, classifier, exact_gelu, preset
from .sizes import Counts

# Blocks and channels of each stage, and the rate of stochastic depth of the paper.
SIZES = {
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768), 0.1),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768), 0.4),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024), 0.5),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536), 0.5),
}
_INIT = initializers.truncated_normal(0.02)


@factory
def ConvNeXt(
    size: str = "tiny",
    *,
    blocks: Counts | None = None,
    widths: Counts | None = None,
    drop_rate: Fraction | None = None,
    layer_scale: NonNegative = 1e-6,
    classes: Positive | None = 1000,
) -> Layer:
    """Convolutions with the choices of transformers (Liu et al., 2022, arXiv:2201.03545).

    Parameters: 28,589,128 (tiny), 50,223,688 (small), 88,591,464 (base) and 197,767,336 (large).

    Args:
      size: ``"tiny"``, ``"small"``, ``"base"`` or ``"large"``.
      blocks, widths: of each stage, instead of those of ``size``.
      drop_rate: of stochastic depth in the last block, in training; it rises from 0 in the first.
        By default that of the paper for ``size``.
      layer_scale: the initial value of the scale of each block's features.
      classes: size of the output; None for the features of the last stage.

    Shapes:
      x: (batch, height, width, channels). y: (batch, classes), or (batch, height / 32, width / 32,
      features) without classes.
      params: stem, stage_0/block_0, ..., norm, head.

    Raises:
      LayerError: for another size, for different numbers of blocks and widths, and
        ``train=True`` without a key where blocks are dropped.

    >>> import jlayers as jl
    >>> model = jl.models.ConvNeXt("tiny")
    >>> jl.out_spec(model, jl.spec((8, 224, 224, 3))).shape
    (8, 1000)
    """
    usual_blocks, usual_widths, rate = SIZES[preset("size", size, SIZES)]
    counts, features = tuple(blocks or usual_blocks), tuple(widths or usual_widths)
    if len(counts) != len(features):
        raise LayerError(
            "blocks and widths are of different numbers of stages",
            got=f"{len(counts)} and {len(features)}",
        )
    rate = rate if drop_rate is None else drop_rate
    stem = Conv(features[0], 4, strides=4, kernel_init=_INIT)
    layers = {"stem": serial(conv=stem, norm=LayerNorm(epsilon=1e-6))}
    before = 0
    for stage, (count, width) in enumerate(zip(counts, features, strict=True)):
        parts: Parts = {}
        if stage:
            parts["norm"] = LayerNorm(epsilon=1e-6)
            parts["conv"] = Conv(width, 2, strides=2, kernel_init=_INIT)
        for i in range(count):
            drop = rate * (before + i) / max(sum(counts) - 1, 1)
            parts[f"block_{i}"] = _block(width, drop, layer_scale)
        before += count
        layers[f"stage_{stage}"] = serial(**parts)
    return classifier(layers, classes, kernel_init=_INIT, norm=LayerNorm(epsilon=1e-6))


def _block(width: int, drop_rate: float, layer_scale: float) -> Layer:
    body = serial(
        conv=Conv(width, 7, padding=3, groups=width, kernel_init=_INIT),
        norm=LayerNorm(epsilon=1e-6),
        expand=Dense(4 * width, kernel_init=_INIT),
        gelu=exact_gelu,
        contract=Dense(width, kernel_init=_INIT),
        scale=Affine(bias=False, scale_init=initializers.constant(layer_scale)),
        drop=StochasticDepth(drop_rate),
    )
    return residual(body)
