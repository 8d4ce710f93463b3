"""TCN, the temporal convolutional network."""

from __future__ import annotations

from typing import Any

import jax
from jax.nn import initializers

from ..base.arguments import Fraction, Positive
from ..base.factory import factory
from ..base.layer import Layer
from ..base.scope import Scope
from ..combinators.compose import compose
from ..combinators.merge import residual_sum
from ..combinators.serial import serial
from ..combinators.weight_norm import weight_norm
from ..layers import Conv, Dense, SpatialDropout
from .parts import Parts
from .sizes import Counts

_INIT = initializers.normal(0.01)


@factory
def TCN(
    features: Counts = 8 * (25,),
    *,
    kernel_size: Positive = 7,
    dropout_rate: Fraction = 0.05,
    project: bool = True,
    classes: Positive | None = None,
) -> Layer:
    """Residual blocks of dilated causal convolutions (Bai et al., 2018, arXiv:1803.01271).

    Each block is ``relu(shortcut(x) + body(x))`` with two convolutions whose dilation doubles from
    block to block, each with weight norm, ReLU and dropout behind it. The defaults are those of the
    paper for the sequential digits (about 70,000 parameters).

    Args:
      features: channels of each block.
      kernel_size: steps that a convolution sees.
      dropout_rate: the probability with which a channel of a row is dropped in training.
      project: whether the shortcut of the first block has a convolution, without which the input
        must have as many channels as the first block.
      classes: size of the output at each step; None for the features of the last block.

    Shapes:
      x: (batch, time, channels). y: (batch, time, classes), or the last of ``features``.
      params: block_0, ..., head.

    Raises:
      LayerError: for ``train=True`` without a key where values are dropped.

    It streams.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.models.TCN(classes=10), jl.spec((8, 784, 1))).shape
    (8, 784, 10)
    """
    layers = {}
    for i, channels in enumerate(features):
        conv = Conv(channels, kernel_size, padding="CAUSAL", dilation=2**i, kernel_init=_INIT)
        parts: Parts = {}
        for j in range(2):
            drop = SpatialDropout(dropout_rate)
            parts |= {f"conv_{j}": weight_norm(conv), f"relu_{j}": jax.nn.relu, f"drop_{j}": drop}
        differs = project if i == 0 else channels != features[i - 1]
        shortcut: Parts = {"shortcut": Conv(channels, 1, kernel_init=_INIT)} if differs else {}
        layers[f"block_{i}"] = compose(_block, body=serial(**parts), **shortcut)
    if classes is not None:
        layers["head"] = Dense(classes, kernel_init=_INIT)
    return serial(**layers)


def _block(f: Scope, x: jax.Array) -> jax.Array:
    shortcut = f.shortcut(x) if "shortcut" in f.children else x
    total: Any = residual_sum(shortcut, f.body(x))
    return jax.nn.relu(total)
