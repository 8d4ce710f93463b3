"""DCGAN: a generator of images, and the discriminator that it is trained with."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ..base.arguments import Positive, one_array
from ..base.errors import LayerError
from ..base.factory import factory
from ..base.layer import Layer
from ..base.specs import format_spec
from ..combinators.serial import serial
from ..layers import BatchNorm, Conv, ConvTranspose
from .parts import Parts

_INIT = initializers.normal(0.02)
_leaky_relu = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)


@factory
def DCGANGenerator(size: Positive = 64, *, channels: Positive = 3, width: Positive = 64) -> Layer:
    """Images from noise, by transposed convolutions (Radford et al., 2015, arXiv:1511.06434).

    Parameters: 3,576,704 for 100 numbers of noise, as in PyTorch's tutorial; the paper has twice
    the width.

    Args:
      size: height and width of the image in pixels, 8 or a higher power of 2.
      channels: of the image.
      width: channels before the last layer; each layer before has twice as many.

    Shapes:
      z: (batch, noise), standard normal, 100 numbers in the paper. y: (batch, size, size,
      channels), from -1 to 1.
      params: conv_0, norm_0, ..., the last without a norm.

    Raises:
      LayerError: for another size.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.models.DCGANGenerator(), jl.spec((8, 100))).shape
    (8, 64, 64, 3)
    """
    up = functools.partial(ConvTranspose, kernel_size=(4, 4), bias=False, kernel_init=_INIT)
    doublings = _doublings(size)
    parts: Parts = {"pixel": _pixel}
    for i in range(doublings):
        features = width * 2 ** (doublings - 1 - i)
        parts[f"conv_{i}"] = up(features, strides=2, padding="SAME") if i else up(features)
        parts |= {f"norm_{i}": BatchNorm(momentum=0.9), f"relu_{i}": jax.nn.relu}
    parts[f"conv_{doublings}"] = up(channels, strides=2, padding="SAME")
    return serial(**parts, tanh=jnp.tanh)


@factory
def DCGANDiscriminator(size: Positive = 64, *, width: Positive = 64) -> Layer:
    """Whether an image is a real one, by strided convolutions (Radford et al., 2015,
    arXiv:1511.06434).

    Parameters: 2,765,568 for three channels, as in PyTorch's tutorial.

    Args:
      size: height and width of the image in pixels, 8 or a higher power of 2.
      width: channels of the first layer; each further layer has twice as many.

    Shapes:
      x: (batch, size, size, channels), from -1 to 1. y: (batch,), logits.
      params: conv_0, norm_1, ..., the first and the last without a norm.

    Raises:
      LayerError: for another size, and for images of another size.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.models.DCGANDiscriminator(), jl.spec((8, 64, 64, 3))).shape
    (8,)
    """
    down = functools.partial(Conv, kernel_size=(4, 4), bias=False, kernel_init=_INIT)
    doublings = _doublings(size)
    parts: Parts = {"image": functools.partial(_image, size=size)}
    for i in range(doublings):
        parts[f"conv_{i}"] = down(width * 2**i, strides=2, padding=1)
        parts |= {f"norm_{i}": BatchNorm(momentum=0.9)} if i else {}
        parts[f"relu_{i}"] = _leaky_relu
    parts[f"conv_{doublings}"] = down(1)
    return serial(**parts, logits=_logits)


def _pixel(z: jax.Array) -> jax.Array:
    one_array(z, "(batch, noise)", rank=2)
    return z[:, None, None, :]


def _image(x: jax.Array, size: int) -> jax.Array:
    one_array(x, "(batch, height, width, channels)", rank=4)
    if x.shape[1:3] != (size, size):
        expected = f"(batch, {size}, {size}, channels)"
        raise LayerError(f"takes images of size {size}", expected=expected, got=format_spec(x))
    return x


def _logits(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0])


def _doublings(size: int) -> int:
    """How often 4 pixels are doubled for ``size``."""
    doublings = size.bit_length() - 3
    if size < 8 or size != 4 * 2**doublings:
        raise LayerError(f"size must be 8 or a higher power of 2, got {size}")
    return doublings
