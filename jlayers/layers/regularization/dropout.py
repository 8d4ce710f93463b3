"""Dropout: values set to zero at random while training."""

from __future__ import annotations

import jax

from ...base import arguments
from ...base.arguments import Axes, UpToOne
from ...base.factory import factory
from ...base.layer import Layer
from .base import kept_or_zero, random_in_training


@factory
def Dropout(rate: UpToOne, *, shared_axes: Axes | None = None) -> Layer:
    """In training, each value is zero with probability ``rate``, and otherwise ``x / (1 - rate)``.

    With ``train=False`` it is the identity (Srivastava et al., 2014, JMLR 15).

    Args:
      rate: the probability of dropping, from 0 to 1.
      shared_axes: the axis along which all values share a draw, or several. 1 is variational
        dropout, which drops the same values in all steps of (batch, time, ...), for use between
        recurrent layers (Gal & Ghahramani, 2016, arXiv:1512.05287). In a stream the mask is drawn
        from the key of each block: with the same key, the same values are dropped.

    Shapes:
      x: one floating array. y: of the same shape and dtype.

    Raises:
      LayerError: for ``train=True`` without a key, unless the rate is 0; for an
        input without one of ``shared_axes``.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> y, _ = jl.Dropout(0.5).apply({}, {}, jnp.ones(6), key=jax.random.key(1), train=True)
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """

    axes = shared_axes if isinstance(shared_axes, tuple | None) else (shared_axes,)

    def drop(key: jax.Array, x: jax.Array) -> jax.Array:
        shared = arguments.axes_of(x, axes or ())
        drawn = tuple(1 if axis in shared else size for axis, size in enumerate(x.shape))
        # Scaled in training, so that the layer is the identity where it is used.
        return kept_or_zero(key, x, rate, drawn)

    return random_in_training(
        drop, never=rate == 0, check=lambda x: arguments.axes_of(x, axes or ())
    )
