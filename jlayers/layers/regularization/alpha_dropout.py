"""AlphaDropout: dropout that keeps mean and variance, for networks with SELU."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...base.arguments import Fraction
from ...base.factory import factory
from ...base.layer import Layer
from .base import kept, random_in_training
from .base import whole_channels as channels_of

# What SELU tends to for large negative inputs: - scale * alpha of ``jax.nn.selu``.
_SATURATED = -1.0507009873554805 * 1.6732632423543772


@factory
def AlphaDropout(rate: Fraction, *, whole_channels: bool = False) -> Layer:
    """In training, values are set to SELU's lower limit with probability ``rate``.

    All values are then scaled and shifted, so that inputs of mean 0 and variance 1 keep both:
    ``a * x + b``, and ``a * limit + b`` where a value is dropped (Klambauer et al., 2017,
    arXiv:1706.02515).

    Args:
      rate: the probability of dropping, from 0 up to, not including, 1.
      whole_channels: whether all positions of a channel are dropped together
        (``FeatureAlphaDropout`` in PyTorch).

    Shapes:
      x: one floating array; (batch, *spatial, channels) for ``whole_channels``. y: of the same
      shape and dtype.

    Raises:
      LayerError: for ``train=True`` without a key, unless the rate is 0; with ``whole_channels``,
        for an input of rank below 3.

    >>> import jax, jlayers as jl
    >>> x = jax.random.normal(jax.random.key(0), (10_000,))
    >>> y, _ = jl.AlphaDropout(0.3).apply({}, {}, x, key=jax.random.key(1), train=True)
    >>> bool(abs(y.mean()) < 0.05), bool(abs(y.std() - 1) < 0.05)
    (True, True)
    """
    scale = ((1 - rate) * (1 + rate * _SATURATED**2)) ** -0.5
    shift = -scale * rate * _SATURATED

    def drop(key: jax.Array, x: jax.Array) -> jax.Array:
        keep = kept(key, x, rate, channels_of(x) if whole_channels else x.shape)
        return jnp.where(keep, scale * x + shift, jnp.full_like(x, scale * _SATURATED + shift))

    if whole_channels:
        return random_in_training(
            drop, never=rate == 0, expected="(batch, *spatial, channels)", least_rank=3
        )
    return random_in_training(drop, never=rate == 0)
