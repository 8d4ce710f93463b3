"""StochasticDepth: whole rows set to zero at random while training, for residual branches."""

from __future__ import annotations

import jax

from ...base.arguments import UpToOne
from ...base.factory import factory
from ...base.layer import Layer
from .base import kept_or_zero, random_in_training


@factory
def StochasticDepth(rate: UpToOne, *, whole_batch: bool = False) -> Layer:
    """In training, each row is zero with probability ``rate``, and otherwise ``x / (1 - rate)``.

    At the end of a residual branch the block is skipped for such a row (Huang et al., 2016,
    arXiv:1603.09382); also known as DropPath.

    Args:
      rate: the probability of dropping, from 0 to 1.
      whole_batch: whether all rows are dropped together, as in the paper. The block then adds
        nothing for the batch.

    Shapes:
      x: (batch, ...), floating. y: of the same shape and dtype.

    Raises:
      LayerError: for ``train=True`` without a key, unless the rate is 0, and for a scalar.

    >>> import jlayers as jl
    >>> jl.residual(jl.serial(jl.Dense(8), jl.StochasticDepth(0.1)))
    residual(serial(Dense(8), StochasticDepth(0.1)))
    """

    def drop(key: jax.Array, x: jax.Array) -> jax.Array:
        rows = 1 if whole_batch else x.shape[0]
        return kept_or_zero(key, x, rate, (rows, *(1 for _ in x.shape[1:])))

    return random_in_training(drop, never=rate == 0, expected="(batch, ...)", least_rank=1)
