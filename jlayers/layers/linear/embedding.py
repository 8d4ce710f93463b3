"""Embedding: a row of a table for every integer id."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ...base import arguments
from ...base.arguments import Positive
from ...base.constructors import pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.specs import format_spec
from ...base.types import Initializer, Params


@factory
def Embedding(
    num_embeddings: Positive,
    features: Positive,
    *,
    # As in Flax: rows have length one on average (docs/notes/0004-defaults.md).
    embedding_init: Initializer = initializers.variance_scaling(
        1.0, "fan_in", "normal", out_axis=0
    ),
) -> Layer:
    """``y = embedding[x]``: a trainable row for every id.

    An id outside ``[-num_embeddings, num_embeddings)`` gives a row of NaN rather than the row of
    another id; negative ids count from the end, as in NumPy.

    Args:
      num_embeddings: how many ids there are.
      features: size of a row.
      embedding_init: as in ``jax.nn.initializers``; by default normal with deviation
        1 / sqrt(features).

    Shapes:
      x: (...,), integer. y: (..., features), of the dtype of the table (float32).
      params: embedding (num_embeddings, features).

    Raises:
      LayerError: for an input that is not one integer array.

    >>> import jlayers as jl
    >>> import jax.numpy as jnp
    >>> jl.out_spec(jl.Embedding(1000, 16), jl.spec((8, 20), jnp.int32)).shape
    (8, 20, 16)
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, "(...,) of integer ids")
        # No cast: 2.7 would silently be the id 2.
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise LayerError(
                f"takes integer ids, got {x.dtype}", got=format_spec(x), hint="x.astype(jnp.int32)"
            )
        return initialize(key, x, embedding=(embedding_init, (num_embeddings, features)))

    def apply(params: Params, x: jax.Array) -> jax.Array:
        # embedding[x] would clip an id that is out of range, and silently give the last row.
        return jnp.take(params["embedding"], x, axis=0, mode="fill", fill_value=jnp.nan)

    return pure(init, apply)
