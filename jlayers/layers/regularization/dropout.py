"""Dropout: values set to zero at random while training."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...base import arguments
from ...base.arguments import Fraction
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence_mode import SequenceMode
from ...base.types import Key, Params, State
from ...core.dtypes import sharded_as


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

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> tuple[Params, State]:
        if shared_over_time:
            arguments.one_array(x, "(batch, time, features)", least_rank=3)
        else:
            arguments.one_array(x, "one array")
        arguments.floating(x)
        return {}, {}

    def apply(
        params: Params, state: State, x: jax.Array, *, key: Key, train: bool
    ) -> tuple[jax.Array, State]:
        if not train or rate == 0:
            return x, state
        # Never a fixed key instead: a model that is trained without noise would go unnoticed.
        if key is None:
            raise LayerError("needs a key to train and got none", hint="apply(..., key=key)")
        # One mask for all steps: an axis of size 1, broadcast over time.
        shape = (x.shape[0], 1, *x.shape[2:]) if shared_over_time else x.shape
        # Scaled in training, so that the layer is the identity where it is used.
        keep = jnp.broadcast_to(jax.random.bernoulli(key, 1 - rate, shape), x.shape)
        return jnp.where(sharded_as(keep, x), x / (1 - rate), jnp.zeros_like(x)), state

    return Layer(init, apply, sequence_mode=SequenceMode.PER_STEP)
