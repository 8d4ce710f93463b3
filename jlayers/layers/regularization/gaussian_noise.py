"""GaussianNoise: noise added while training."""

from __future__ import annotations

import jax

from ...base.arguments import NonNegative
from ...base.factory import factory
from ...base.layer import Layer
from ...core.dtypes import at_least_float32
from .base import random_in_training


@factory
def GaussianNoise(stddev: NonNegative) -> Layer:
    """In training, ``x`` plus normal noise of mean 0 and deviation ``stddev``.

    Args:
      stddev: the noise's standard deviation, in the units of ``x``.

    Shapes:
      x: one floating array. y: of the same shape and dtype.

    Raises:
      LayerError: for ``train=True`` without a key, unless ``stddev`` is 0.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> x = jnp.ones(10_000)
    >>> y, _ = jl.GaussianNoise(0.5).apply({}, {}, x, key=jax.random.key(0), train=True)
    >>> bool(abs(y.mean() - 1) < 0.02), bool(abs(y.std() - 0.5) < 0.02)
    (True, True)
    """

    def change(key: jax.Array, x: jax.Array) -> jax.Array:
        noise = jax.random.normal(key, x.shape, at_least_float32(x.real.dtype))
        return x + (stddev * noise).astype(x.dtype)

    return random_in_training(change, never=stddev == 0)
