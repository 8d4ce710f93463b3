"""GaussianDropout: values multiplied by noise of mean 1 while training."""

from __future__ import annotations

import math

import jax

from ...base.arguments import Fraction
from ...base.factory import factory
from ...base.layer import Layer
from ...core.dtypes import at_least_float32
from .base import random_in_training


@factory
def GaussianDropout(rate: Fraction) -> Layer:
    """In training, ``x * n`` with ``n`` normal of mean 1 and variance ``rate / (1 - rate)``.

    The noise has the mean and the variance of the factors of ``Dropout(rate)`` (Srivastava et al.,
    2014, JMLR 15, section 10).

    Args:
      rate: that of the dropout with the same variance, from 0 up to, not including, 1.

    Shapes:
      x: one floating array. y: of the same shape and dtype.

    Raises:
      LayerError: for ``train=True`` without a key, unless the rate is 0.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> x = jnp.ones(10_000)
    >>> y, _ = jl.GaussianDropout(0.2).apply({}, {}, x, key=jax.random.key(0), train=True)
    >>> bool(abs(y.mean() - 1) < 0.02), bool(abs(y.std() - 0.5) < 0.02)
    (True, True)
    """
    deviation = math.sqrt(rate / (1 - rate))

    def change(key: jax.Array, x: jax.Array) -> jax.Array:
        noise = jax.random.normal(key, x.shape, at_least_float32(x.real.dtype))
        return x * (1 + deviation * noise).astype(x.dtype)

    return random_in_training(change, never=rate == 0)
