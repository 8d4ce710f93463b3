"""SpatialDropout: whole channels set to zero at random while training."""

from __future__ import annotations

import jax

from ...base.arguments import UpToOne
from ...base.factory import factory
from ...base.layer import Layer
from .base import kept_or_zero, random_in_training, whole_channels


@factory
def SpatialDropout(rate: UpToOne) -> Layer:
    """In training, each channel of each row is zero with probability ``rate``.

    The others are ``x / (1 - rate)``. Neighbouring pixels are alike, so that dropping some of them
    takes little away (Tompson et al., 2015, arXiv:1411.4280). One layer for 1-D, 2-D and 3-D;
    ``Dropout1d`` to ``Dropout3d`` in PyTorch.

    Args:
      rate: the probability of dropping, from 0 to 1.

    Shapes:
      x: (batch, *spatial, channels), floating. y: of the same shape and dtype.

    Raises:
      LayerError: for ``train=True`` without a key, unless the rate is 0, and for an input of rank
        below 3.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> x = jnp.ones((1, 2, 2, 8))
    >>> y, _ = jl.SpatialDropout(0.5).apply({}, {}, x, key=jax.random.key(0), train=True)
    >>> bool((y == y[:, :1, :1]).all()), sorted(set(y.ravel().tolist()))
    (True, [0.0, 2.0])
    """

    def drop(key: jax.Array, x: jax.Array) -> jax.Array:
        return kept_or_zero(key, x, rate, whole_channels(x))

    return random_in_training(
        drop, never=rate == 0, expected="(batch, *spatial, channels)", least_rank=3
    )
