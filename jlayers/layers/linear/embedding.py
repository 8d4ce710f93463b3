"""Embedding: a row of a table for every integer id."""

from __future__ import annotations

import jax

from ...base.arguments import AboveZero, Integer, Positive
from ...base.constructors import pure
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, Params
from .table import ROWS, Table


@factory
def Embedding(
    num_embeddings: Positive,
    features: Positive,
    *,
    padding_id: Integer | None = None,
    max_norm: AboveZero | None = None,
    p: AboveZero = 2.0,
    embedding_init: Initializer = ROWS,
) -> Layer:
    """``y = embedding[x]``: a trainable row for every id.

    Negative ids count from the end, as in NumPy. An id outside ``[-num_embeddings,
    num_embeddings)`` raises where ids are known, without ``jit``; inside ``jit`` it gives a row of
    NaN rather than the row of another id. Without x64, an argument of ``jit`` that is int64 is cut
    to 32 bits before any layer sees it.

    ``tied`` uses the table of an embedding for the logits of a model's output too.

    Args:
      num_embeddings: how many ids there are.
      features: size of a row.
      padding_id: an id, negative ones from the end, whose row starts as zeros and gets no gradient,
        so that it stays zeros; a row that is imported with other values gives these, as in
        PyTorch. It masks nothing; the mask of a ``Sequence`` does.
      max_norm: rows of a larger ``p``-norm are scaled down to it where they are looked up. The
        table is not changed, as PyTorch changes it, and gradients go through the scaling.
      p: the exponent of that norm, at least 1 for a norm; ``float("inf")`` for the largest value.
      embedding_init: as in ``jax.nn.initializers``; by default normal with deviation
        1 / sqrt(features).

    Shapes:
      x: (...,), integer. y: (..., features), of the dtype of the table (float32).
      params: embedding (num_embeddings, features).

    Raises:
      LayerError: for an input that is not one integer array, for ids out of range, and for a
        padding id out of range.

    >>> import jlayers as jl
    >>> import jax.numpy as jnp
    >>> jl.out_spec(jl.Embedding(1000, 16), jl.spec((8, 20), jnp.int32)).shape
    (8, 20, 16)
    """
    table = Table(num_embeddings, features, padding_id, max_norm, p, embedding_init).checked()

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        return table.init(key, x, "(...,) of integer ids")

    return pure(init, table.rows, lazy_weights=("embedding",))
