"""U-Net."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ..base.arguments import Fraction, Positive
from ..base.errors import LayerError
from ..base.factory import factory
from ..base.layer import Layer
from ..base.scope import Scope
from ..base.specs import format_spec, specs_of
from ..base.types import PyTree
from ..combinators.compose import compose
from ..combinators.serial import serial
from ..layers import BatchNorm, Conv, ConvTranspose, Dropout, MaxPool
from .parts import Parts, preset


@factory
def UNet(
    classes: Positive = 2,
    *,
    width: Positive = 64,
    depth: Positive = 4,
    padding: str = "VALID",
    batch_norm: bool = False,
    dropout_rate: Fraction = 0.0,
) -> Layer:
    """Segmentation by an encoder and a decoder with connections across (Ronneberger et al., 2015,
    arXiv:1505.04597).

    Parameters: 31,030,658 for images of one channel, as in Figure 1 of the paper.

    Args:
      classes: size of the last axis of the output.
      width: channels of the first level; each further level has twice as many.
      depth: how many times the image is halved.
      padding: ``"VALID"`` as in the paper, where features of the encoder are cropped to the smaller
        ones of the decoder; or ``"SAME"``, where the output has the size of the image.
      batch_norm: whether one follows each convolution, as in most implementations since.
      dropout_rate: at the end of the encoder, in training.

    Shapes:
      x: (batch, height, width, channels), of sizes that can be halved ``depth`` times. y: (batch,
      height', width', classes), 388 pixels for 572 as in the paper.
      params: down_0, ..., bottom, ..., up_0 and merge_0, head.

    Raises:
      LayerError: for another padding, for an image that cannot be halved that often, and for
        ``train=True`` without a key where values are dropped.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.models.UNet(2), jl.spec((1, 572, 572, 1))).shape
    (1, 388, 388, 2)
    """
    preset("padding", padding, ("VALID", "SAME"))
    init = initializers.he_normal()

    def twice(features: int) -> Layer:
        conv = Conv(features, (3, 3), padding=padding, bias=not batch_norm, kernel_init=init)
        parts: Parts = {}
        for i in range(2):
            parts[f"conv_{i}"] = conv
            if batch_norm:
                parts[f"norm_{i}"] = BatchNorm(momentum=0.9)
            parts[f"relu_{i}"] = jax.nn.relu
        return serial(**parts)

    layers: Parts = {f"down_{i}": twice(width * 2**i) for i in range(depth)}
    layers["pool"] = MaxPool((2, 2))
    bottom = twice(width * 2**depth)
    layers["bottom"] = serial(bottom, drop=Dropout(dropout_rate)) if dropout_rate else bottom
    for i in reversed(range(depth)):
        layers[f"up_{i}"] = ConvTranspose(width * 2**i, (2, 2), strides=2, kernel_init=init)
        layers[f"merge_{i}"] = twice(width * 2**i)
    return compose(_across, **layers, head=Conv(classes, (1, 1), kernel_init=init))


def _across(f: Scope, x: PyTree) -> PyTree:
    encoded = []
    depth = sum(name.startswith("down_") for name in f.children)
    for i in range(depth):
        encoded.append(x := f[f"down_{i}"](x))
        if any(size % 2 for size in x.shape[1:3]):
            raise LayerError(
                f"level {i} cannot be halved", expected="even sizes", got=format_spec(specs_of(x))
            )
        x = f.pool(x)
    x = f.bottom(x)
    for i in reversed(range(depth)):
        x = f[f"up_{i}"](x)
        beside = _cropped(encoded[i], x.shape)
        x = f[f"merge_{i}"](jnp.concatenate([beside, x], -1))
    return f.head(x)


def _cropped(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    top, left = ((x.shape[axis] - shape[axis]) // 2 for axis in (1, 2))
    return x[:, top : top + shape[1], left : left + shape[2]]
