"""Dropout: values set to zero at random while training."""

from __future__ import annotations

import jax

from ...base.arguments import Fraction
from ...base.factory import factory
from ...base.layer import Layer
from .base import kept_or_zero, random_in_training


@factory
def Dropout(rate: Fraction, *, shared_over_time: bool = False) -> Layer:
    """In training, each value is zero with probability ``rate``, and otherwise ``x / (1 - rate)``.

    With ``train=False`` it is the identity (Srivastava et al., 2014, JMLR 15).

    Args:
      rate: the probability of dropping, from 0 up to, not including, 1.
      shared_over_time: whether all steps of a sequence, (batch, time, ...), drop the same values:
        variational dropout, for use between recurrent layers (Gal & Ghahramani, 2016,
        arXiv:1512.05287). In a stream the mask is drawn from the key of each block: with the same
        key, the same values are dropped.

    Shapes:
      x: one floating array. y: of the same shape and dtype.

    Raises:
      LayerError: for ``train=True`` without a key, unless the rate is 0; with
        ``shared_over_time``, for an input without a time axis.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> y, _ = jl.Dropout(0.5).apply({}, {}, jnp.ones(6), key=jax.random.key(1), train=True)
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """

    def drop(key: jax.Array, x: jax.Array) -> jax.Array:
        # Scaled in training, so that the layer is the identity where it is used.
        return kept_or_zero(
            key, x, rate, (x.shape[0], 1, *x.shape[2:]) if shared_over_time else x.shape
        )

    if shared_over_time:
        return random_in_training(
            drop, never=rate == 0, expected="(batch, time, features)", least_rank=3
        )
    return random_in_training(drop, never=rate == 0)
