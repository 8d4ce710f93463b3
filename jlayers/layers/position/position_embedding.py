"""PositionEmbedding: a trainable row for every position, added to the steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ...base.arguments import Positive
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.positions import of_positions
from ...base.types import Initializer, Params
from .base import check_steps, over_features


@factory
def PositionEmbedding(
    num_positions: Positive,
    *,
    embedding_init: Initializer = initializers.normal(0.02),
) -> Layer:
    """``y_t = x_t + embedding[t]``: learned positions (Gehring et al., 2017, arXiv:1705.03122).

    Positions count valid steps: padding in front of a row counts nothing, and a stream goes on
    where its last block ended. There, a position of ``num_positions`` or more gives a row of NaN
    rather than the row of another position.

    Args:
      num_positions: how many there are, the longest sequence.
      embedding_init: as in ``jax.nn.initializers``; by default normal with deviation 0.02, as in
        GPT-2 and BERT.

    Shapes:
      x, y: (batch, time, ..., features), floating.
      params: embedding (num_positions, features).

    Raises:
      LayerError: for an input without a time axis, and an array of more steps than that.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> layer = jl.PositionEmbedding(8, embedding_init=jax.nn.initializers.ones)
    >>> params, state = layer.init(jax.random.key(0), jl.spec((1, 3, 2)))
    >>> layer.apply(params, state, jnp.zeros((1, 3, 2)))[0].tolist()
    [[[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]]
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        check_steps(x)
        return initialize(key, x, embedding=(embedding_init, (num_positions, x.shape[-1])))

    def apply(params: Params, x: jax.Array, positions: jax.Array) -> jax.Array:
        rows = jnp.take(params["embedding"], positions, axis=0, mode="fill", fill_value=jnp.nan)
        return x + over_features(rows, x)

    return of_positions(init, apply, num_positions)
