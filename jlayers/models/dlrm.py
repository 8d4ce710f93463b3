"""DLRM, the deep learning recommendation model."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from ..base.errors import LayerError
from ..base.factory import factory
from ..base.layer import Layer
from ..base.scope import Scope
from ..base.specs import format_spec, specs_of
from ..base.types import PyTree
from ..combinators.compose import compose
from ..combinators.serial import serial
from ..layers import Dense, Embedding, EmbeddingBag
from .parts import Parts
from .sizes import Counts


@factory
def DLRM(
    num_embeddings: Counts,
    *,
    bottom: Counts = (512, 256, 64, 16),
    top: Counts = (512, 256, 1),
    bags: bool = False,
) -> Layer:
    """Clicks from numbers and categories (Naumov et al., 2019, arXiv:1906.00091).

    The numbers go through dense layers to as many features as a row of a table has. That vector and
    the products of all pairs of it and the rows of the categories go through the layers at the top.

    Parameters: 540,677,217 with the 33,762,577 rows of the paper's data set of Kaggle and 13
    numbers, of which 475,985 are not in tables.

    Args:
      num_embeddings: rows of the table of each category.
      bottom: features of the dense layers of the numbers; the last is that of the tables.
      top: features of the dense layers at the top.
      bags: whether a category has several ids in a row of the batch; their table rows are added.

    Shapes:
      x: ``{"dense": (batch, numbers), "ids": (batch, categories)}``, floating and integer; with
      ``bags`` the ids are (batch, categories, bag). y: (batch, the last of ``top``), logits of
      the dtype of ``dense``.
      params: bottom, table_0, ..., top.

    Raises:
      LayerError: for another input, another number of categories, and an empty list of features.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> model = jl.models.DLRM((1000, 50, 7))
    >>> x = {"dense": jl.spec((8, 13)), "ids": jl.spec((8, 3), jnp.int32)}
    >>> jl.out_spec(model, x).shape
    (8, 1)
    """
    tables: Parts = {}
    for i, rows in enumerate(num_embeddings):
        single = Embedding(rows, bottom[-1])
        tables[f"table_{i}"] = EmbeddingBag(rows, bottom[-1], mode="sum") if bags else single
    *hidden, outputs = top
    return compose(
        functools.partial(_interact, rank=3 if bags else 2),
        bottom=serial(**_dense(bottom)),
        **tables,
        top=serial(**_dense(hidden), head=Dense(outputs)),
    )


def _dense(sizes: Iterable[int]) -> Parts:
    parts: Parts = {}
    for i, features in enumerate(sizes):
        parts |= {f"dense_{i}": Dense(features), f"relu_{i}": jax.nn.relu}
    return parts


def _interact(f: Scope, x: PyTree, rank: int) -> PyTree:
    tables = [name for name in f.children if name.startswith("table_")]
    if not isinstance(x, dict) or set(x) != {"dense", "ids"}:
        raise LayerError(
            "takes a dict of two arrays", expected="dense, ids", got=format_spec(specs_of(x))
        )
    dense, ids = x["dense"], x["ids"]
    batch, count = dense.shape[:1], len(tables)
    if dense.ndim != 2 or ids.ndim != rank or ids.shape[:2] != (*batch, count):
        per_row = f"{count}, bag" if rank == 3 else f"{count}"
        raise LayerError(
            f"has {count} tables, and takes ids of each for a row of numbers",
            expected=f"dense (batch, numbers), ids (batch, {per_row})",
            got=format_spec(specs_of(x)),
        )
    numbers = f.bottom(dense)
    # Tables have the dtype of the parameters, whatever that of the numbers.
    rows = [f[name](ids[:, i]).astype(numbers.dtype) for i, name in enumerate(tables)]
    vectors = jnp.stack([numbers, *rows], 1)
    products = jnp.einsum("bid,bjd->bij", vectors, vectors)
    i, j = np.tril_indices(len(tables) + 1, -1)
    return f.top(jnp.concatenate([numbers, products[:, i, j]], -1))
