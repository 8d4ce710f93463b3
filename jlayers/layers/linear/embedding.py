"""Embedding: a row of a table for every integer id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers
from jax.sharding import NamedSharding, PartitionSpec

from ...base import arguments
from ...base.arguments import Positive
from ...base.constructors import pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.specs import format_spec
from ...base.types import Initializer, Params
from ...core.dtypes import is_sharded


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

    Negative ids count from the end, as in NumPy. An id outside ``[-num_embeddings,
    num_embeddings)`` raises where ids are known, without ``jit``; inside ``jit`` it gives a row of
    NaN rather than the row of another id. Without x64, an argument of ``jit`` that is int64 is cut
    to 32 bits before any layer sees it.

    Args:
      num_embeddings: how many ids there are.
      features: size of a row.
      embedding_init: as in ``jax.nn.initializers``; by default normal with deviation
        1 / sqrt(features).

    Shapes:
      x: (...,), integer. y: (..., features), of the dtype of the table (float32).
      params: embedding (num_embeddings, features).

    Raises:
      LayerError: for an input that is not one integer array, and for ids out of range.

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
        _check_range(x, num_embeddings)
        table, ids = params["embedding"], _as_int32(x, num_embeddings)
        # embedding[x] would clip an id that is out of range, and silently give the last row.
        how: dict[str, Any] = {"mode": "fill", "fill_value": jnp.nan}
        if is_sharded(table) or is_sharded(ids):
            # JAX asks how rows are to be sharded: as their ids are, and along the features as the
            # table is, unless the ids use that axis of the mesh already.
            of_ids, of_table = jax.typeof(ids).sharding, jax.typeof(table).sharding
            rows, columns = of_ids.spec, of_table.spec[1]
            if set(_axes(rows)) & set(_axes([columns])):
                columns = None
            mesh = of_ids.mesh if is_sharded(ids) else of_table.mesh
            how["out_sharding"] = NamedSharding(mesh, PartitionSpec(*rows, columns))
        y: jax.Array = table.at[ids].get(**how)
        return y

    return pure(init, apply)


def _check_range(x: jax.Array, count: int) -> None:
    """Raises for an id that no row belongs to, where the ids are known."""
    if isinstance(x, jax.core.Tracer) or not getattr(x, "is_fully_addressable", True):
        return
    ids = np.asarray(x)
    if not ids.size:
        return
    for bad in (int(ids.max()), int(ids.min())):
        if not -count <= bad < count:
            raise LayerError(
                f"the id {bad} is out of range",
                expected=f"ids from 0 to {count - 1}, or from {-count} to -1 counted from the end",
                got=format_spec(x),
                hint=f"the largest id is {count - 1}; Embedding(n, ...) takes ids up to n - 1",
            )


def _as_int32(x: jax.Array, count: int) -> jax.Array:
    """The ids as int32; those out of range stay so where 32 bits do not hold them."""
    info = jnp.iinfo(x.dtype)  # type: ignore[no-untyped-call]
    # Not left to JAX: an int8 that counts from the end of more than 127 rows would overflow.
    if info.max > np.iinfo(np.int32).max:
        x = jnp.clip(x, max(-count - 1, int(info.min)), count)
    return x.astype(jnp.int32)


def _axes(spec: Iterable[Any]) -> Iterator[str]:
    """The axes of the mesh in a ``PartitionSpec``."""
    for entry in spec:
        if entry is not None:
            yield from (entry,) if isinstance(entry, str) else entry
