"""What depends on the distance of a query and a key through tables of rows: T5, Shaw, XL."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..dtypes import sharded_as


class DistanceBuckets(NamedTuple):
    """Which row of a table belongs to a distance, key less query.

    Attributes:
      num_buckets: how many rows there are.
      max_distance: from which distance on all have one row, in T5: half of the rows are for the
        nearest distances, the others for distances that grow like powers. None for the table of
        Shaw: a row for each distance, clipped to ``(num_buckets - 1) / 2`` to either side.
      causal: in T5, whether later keys have no rows of their own.
    """

    num_buckets: int
    max_distance: int | None = None
    causal: bool = False

    def rows(self, distances: jax.Array) -> jax.Array:
        """The row of each distance, int32.

        >>> import jax.numpy as jnp
        >>> DistanceBuckets(5).rows(jnp.array([-9, -1, 0, 3])).tolist()
        [0, 1, 2, 4]
        >>> DistanceBuckets(8, 16).rows(jnp.array([-9, -1, 0, 3])).tolist()
        [3, 1, 0, 6]
        """
        if self.max_distance is None:
            reach = (self.num_buckets - 1) // 2
            return jnp.clip(distances, -reach, reach) + reach
        # The last distance of each row is known: no logarithm in float32, whose rounding would
        # decide on which side of an edge a distance lies.
        side = self.num_buckets if self.causal else self.num_buckets // 2
        edges = jnp.asarray(_first_distances(side, self.max_distance), jnp.int32)
        back = jnp.maximum(-distances, 0) if self.causal else jnp.abs(distances)
        rows = jnp.searchsorted(edges, back, side="right", method="compare_all")
        rows = rows.astype(jnp.int32) - 1
        later = jnp.zeros_like(rows) if self.causal else jnp.where(distances > 0, side, 0)
        return rows + later.astype(jnp.int32)


@functools.cache
def _first_distances(side: int, max_distance: int) -> np.ndarray:
    """The first distance of each row of one side (Raffel et al., 2020, and their code)."""
    exact = max(side // 2, 1)
    distances = np.arange(max_distance + 1)
    grown = exact + (
        np.log(np.maximum(distances, 1) / exact)
        / math.log(max(max_distance, exact + 1) / exact)
        * (side - exact)
        # A hair more, for what is a whole number but for rounding.
        + 1e-9
    ).astype(int)
    rows = np.where(distances < exact, distances, np.minimum(grown, side - 1))
    # A row that no distance has begins where the next one does, or beyond all.
    starts = [np.flatnonzero(rows >= row) for row in range(side)]
    return np.array([at[0] if len(at) else np.iinfo(np.int32).max for at in starts])


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("bias", "keys", "values", "shift"),
    meta_fields=("buckets",),
)
@dataclasses.dataclass(frozen=True)
class RelativeTables:
    """Rows for distances, which ``attention`` adds to scores, keys and values.

    Attributes:
      buckets: which row belongs to a distance.
      bias: (num_buckets, num_heads), added to the scores (Raffel et al., 2020, arXiv:1910.10683).
      keys: (num_buckets, head_dim), added to the keys (Shaw et al., 2018, arXiv:1803.02155), or
        (num_buckets, num_heads, head_dim) for keys of each head of queries.
      values: (num_buckets, value_dim), added to the values.
      shift: (num_heads, head_dim), added to the queries where they meet these ``keys``.
    """

    buckets: DistanceBuckets
    bias: jax.Array | None = None
    keys: jax.Array | None = None
    values: jax.Array | None = None
    shift: jax.Array | None = None

    def rows(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
        """Of positions (batch, T) and (batch, S): int32 (batch, T, S)."""
        shape = (*queries.shape, keys.shape[1])
        q, k = jnp.broadcast_to(queries[..., None], shape), jnp.broadcast_to(keys[:, None], shape)
        return self.buckets.rows(k - q)

    def bias_of(self, rows: jax.Array) -> jax.Array | None:
        """(batch, num_heads, T, S), added to the scores."""
        if self.bias is None:
            return None
        return jnp.moveaxis(jnp.take(self.bias, rows, axis=0, mode="clip"), -1, 1)

    def products(self, q: jax.Array, rows: jax.Array) -> jax.Array | None:
        """Of queries (batch, T, num_heads, head_dim) and ``keys``: (batch, num_heads, T, S)."""
        if self.keys is None:
            return None
        if self.shift is not None:
            q = q + jnp.broadcast_to(self.shift.astype(q.dtype), q.shape)
        # With each row once, and not with as many copies as there are pairs.
        letters = "rh" if self.keys.ndim == 2 else "rnh"
        of_rows = jnp.einsum(f"btnh,{letters}->bntr", q, self.keys.astype(q.dtype))
        index = jnp.broadcast_to(rows[:, None], (*of_rows.shape[:3], rows.shape[-1]))
        return jnp.take_along_axis(of_rows, index, 3, mode="clip")

    def of_values(self, weights: jax.Array, rows: jax.Array) -> jax.Array | None:
        """What ``values`` add to the output for weights (batch, num_heads, T, S)."""
        if self.values is None:
            return None
        # Sums of comparisons, which XLA makes in one pass and does not store: a scatter would add
        # one weight after another.
        shape = (*weights.shape, self.buckets.num_buckets)
        numbers = jnp.arange(shape[-1], dtype=jnp.int32)
        own = jnp.broadcast_to(rows[:, None, :, :, None], shape) == jnp.broadcast_to(numbers, shape)
        spread = jnp.broadcast_to(weights[..., None], shape)
        own = sharded_as(own, spread)
        of_rows = jnp.sum(jnp.where(own, spread, jnp.zeros_like(spread)), -2)
        return jnp.einsum("bntr,rh->btnh", of_rows, self.values.astype(weights.dtype))
