"""What embeddings share: a table of trainable rows, and how ids look them up.

How to read this file: ``Table`` holds the arguments that embeddings have in common. ``init`` checks
the ids and draws the table, and ``rows`` looks ids up; the functions below say what is refused and
how a lookup is sharded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from ...base import arguments
from ...base.errors import LayerError
from ...base.parameters import initialize
from ...base.specs import format_spec
from ...base.types import Initializer, Params
from ...core.dtypes import at_least_float32, has_sharded_type, sharded_as
from ...core.weights import Weight

# As in Flax: rows have length one on average (docs/notes/0004-defaults.md).
ROWS = initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
# As PyTorch has it.
_ABOVE_NORM = 1e-7


class Table(NamedTuple):
    """The arguments of an embedding.

    Attributes:
      padding_id: the id whose row starts as zeros and gets no gradient, or None.
      max_norm, p: rows of a larger p-norm are scaled down to it; None for no such limit.
    """

    num_embeddings: int
    features: int
    padding_id: int | None
    max_norm: float | None
    p: float
    embedding_init: Initializer

    def checked(self) -> Table:
        """The same, with a padding id that counts from 0."""
        count, given = self.num_embeddings, self.padding_id
        if given is None:
            return self
        if not -count <= given < count:
            raise LayerError(
                f"padding_id must be an id, from {-count} to {count - 1}, got {given}",
            )
        return self._replace(padding_id=given % count)

    def init(self, key: jax.Array, ids: Any, expected: str, least_rank: int = 0) -> Params:
        """The parameters for ids of this spec, which is checked."""
        arguments.one_array(ids, expected, least_rank=least_rank)
        # No cast: 2.7 would silently be the id 2.
        if not jnp.issubdtype(ids.dtype, jnp.integer):
            raise LayerError(
                f"takes integer ids, got {ids.dtype}",
                got=format_spec(ids),
                hint="x.astype(jnp.int32)",
            )
        make = self.embedding_init if self.padding_id is None else self._drawn
        return initialize(key, ids, embedding=(make, (self.num_embeddings, self.features)))

    def _drawn(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        return jnp.asarray(self.embedding_init(key, shape, dtype)).at[self.padding_id].set(0)

    def rows(self, params: Params, x: jax.Array) -> jax.Array:
        """The row of each id."""
        _check_range(x, self.num_embeddings)
        ids = _as_int32(x, self.num_embeddings)
        rows = lookup(params["embedding"], ids)
        if self.padding_id is not None:
            padding = jnp.broadcast_to(self.is_padding(ids)[..., None], rows.shape)
            rows = jnp.where(sharded_as(padding, rows), jax.lax.stop_gradient(rows), rows)
        return rows if self.max_norm is None else _limited(rows, self.max_norm, self.p)

    def is_padding(self, x: jax.Array) -> jax.Array:
        """Whether an id is the padding id."""
        if self.padding_id is None:
            return jnp.zeros_like(x, bool)
        ids = _as_int32(x, self.num_embeddings)
        return (ids == self.padding_id) | (ids == self.padding_id - self.num_embeddings)


def _limited(rows: jax.Array, max_norm: float, p: float) -> jax.Array:
    """The rows, those of a p-norm above ``max_norm`` scaled down to it."""
    size = jnp.abs(rows).astype(at_least_float32(rows.dtype))
    if math.isinf(p):
        norm = jnp.max(size, -1, keepdims=True)
    else:
        total = jnp.sum(size**p, -1, keepdims=True)
        # A root has no gradient at zero, where nothing is scaled.
        norm = jnp.where(total > 0, total, jnp.ones_like(total)) ** (1 / p)
    scale = jnp.where(norm > max_norm, max_norm / (norm + _ABOVE_NORM), jnp.ones_like(norm))
    return rows * jnp.broadcast_to(scale, rows.shape).astype(rows.dtype)


def lookup(table: jax.Array | Weight, ids: jax.Array) -> jax.Array:
    """The rows (..., features) of int32 ids; NaN for an id that is out of range."""
    if isinstance(table, Weight):
        return table.rows(ids, lookup)
    # embedding[x] would clip an id that is out of range, and silently give the last row.
    how: dict[str, Any] = {"mode": "fill", "fill_value": jnp.nan}
    if has_sharded_type(table) or has_sharded_type(ids):
        # JAX asks how rows are to be sharded: as their ids are, and along the features as the
        # table is, unless the ids use that axis of the mesh already.
        of_ids, of_table = jax.typeof(ids).sharding, jax.typeof(table).sharding
        rows, columns = of_ids.spec, of_table.spec[1]
        if set(_axes(rows)) & set(_axes([columns])):
            columns = None
        mesh = of_ids.mesh if has_sharded_type(ids) else of_table.mesh
        how["out_sharding"] = NamedSharding(mesh, PartitionSpec(*rows, columns))
    # As read from a file it may be NumPy's, which has no ``at``.
    y: jax.Array = jnp.asarray(table).at[ids].get(**how)
    return y


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
