"""Which keys a query attends to, and at what bias: for all scores at once, or one block of them.

How to read this file: ``AttentionMask`` holds everything that hides a key or lowers its score.
``full`` and ``full_bias`` lay that out for all queries and keys (the direct method); ``block`` and
``block_bias`` do it for a few queries and keys of one head, whose start may be a traced number (the
blockwise method). Both use the same small functions on positions, at the end of the file.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from ..dtypes import is_symbolic

# A Python int where a block is outside a loop, traced inside.
Index = int | jax.Array
# pattern(positions of queries, of keys) -> bools, of int32 arrays of one shape.
Pattern = Callable[[jax.Array, jax.Array], jax.Array]


class AttentionMask(NamedTuple):
    """For T queries in N = groups * num_kv_heads heads, and S keys in num_kv_heads heads.

    Attributes:
      mask: (B or 1, N or 1, T or 1, S or 1), True where a query may attend to a key; None where
        there is no such mask.
      positions: of the queries (B, T) and of the keys (B, S), int32, which ``window`` and ``alibi``
        and ``pattern`` compare; None where they are t + offset and s.
      causal: whether query t attends to the keys up to t + offset alone.
      window: to how many positions before and after its own a query attends; None for all.
      alibi: whether scores fall with the distance, or by how much, for each head.
      offset: S - T, so that the last query attends to the last key.
      groups: query heads for each head of keys.
      num_kv_heads: heads of keys.
      pattern: of positions, which keys a query attends to; None for all.
    """

    mask: jax.Array | None
    positions: tuple[jax.Array, jax.Array] | None
    causal: bool
    window: tuple[int, int] | None
    alibi: bool | tuple[float, ...]
    offset: int
    groups: int
    num_kv_heads: int
    pattern: Pattern | None = None

    @property
    def may_be_empty(self) -> bool:
        """Whether some query may have no key at all to attend to."""
        # A causal query always has its own key, unless the keys are too few, or unless its position
        # is not its index and the window is measured in positions.
        windowed = self.window is not None
        few = is_symbolic(self.offset) or self.offset < 0
        no_own_key = few or (windowed and self.positions is not None)
        # Without it, a window may lie beside all keys.
        beside = windowed and (self.offset != 0 or self.positions is not None)
        hidden = self.mask is not None or self.pattern is not None
        return hidden or (no_own_key if self.causal else beside)

    @property
    def index_window(self) -> tuple[int, int] | None:
        """How many keys before and after its own a query attends to; None if it is not known."""
        return self.window if self.positions is None else None

    def full(self, steps: int, keys: int) -> jax.Array | None:
        """(B or 1, N or 1, T or 1, S or 1), or None where every query attends to every key."""
        # Each part with the axes it has: what does not vary over heads is not repeated for them.
        parts = [] if self.mask is None else [self.mask]
        if self.causal:
            queries = jnp.arange(steps, dtype=jnp.int32) + self.offset
            parts.append(_not_later(queries, jnp.arange(keys, dtype=jnp.int32))[None, None])
        if self.window is not None:
            parts.append(
                _within(*self.positions_of(steps, keys), self.window, self.causal)[:, None]
            )
        if self.pattern is not None:
            parts.append(_matching(*self.positions_of(steps, keys), self.pattern)[:, None])
        if not parts:
            return None
        shape = jnp.broadcast_shapes(*(part.shape for part in parts))
        visible = jnp.broadcast_to(parts[0], shape)
        for part in parts[1:]:
            visible = visible & jnp.broadcast_to(part, shape)
        return visible

    def full_bias(self, steps: int, keys: int, dtype: DTypeLike) -> jax.Array | None:
        """What is added to the scores, (B or 1, N, T, S), or None."""
        # In the dtype of the scores, float32 at least: bfloat16 would round distances above 256.
        if not self.alibi:
            return None
        slopes = self._slopes(dtype)[None, :, None]
        distance = _negative_distance(*self.positions_of(steps, keys), dtype)[:, None]
        shape = (distance.shape[0], slopes.shape[1], *distance.shape[2:])
        return jnp.broadcast_to(slopes[..., None], shape) * jnp.broadcast_to(distance, shape)

    def block(
        self, head: jax.Array, step: Index, steps: int, key: Index, keys: int
    ) -> jax.Array | None:
        """(steps * groups, keys) of one head; the query heads of one step are neighbouring rows.

        Args:
          head: index among B * num_kv_heads.
          step, steps: the first step and their number.
          key, keys: the first key and their number.
        """
        shape = (steps * self.groups, keys)
        parts = []
        if self.causal:
            # Compared as multiples of `groups`, so that rows need no division by it.
            rows = lax.broadcasted_iota(jnp.int32, shape, 0) + (step + self.offset) * self.groups
            columns = lax.broadcasted_iota(jnp.int32, shape, 1) + key
            parts.append(rows >= columns * self.groups)
        if self.window is not None:
            at = self._block_positions(head, step, steps, key, keys)
            parts.append(_within(*at, self.window, self.causal))
        if self.pattern is not None:
            at = self._block_positions(head, step, steps, key, keys)
            parts.append(_matching(*at, self.pattern))
        if self.mask is not None:
            parts.append(self._mask_block(head, step, steps, key, keys).reshape(shape))
        return functools.reduce(operator.and_, parts) if parts else None

    def block_bias(
        self, head: jax.Array, step: Index, steps: int, key: Index, keys: int, dtype: DTypeLike
    ) -> jax.Array | None:
        """What is added to a block of scores, (steps * groups, keys), or None."""
        if not self.alibi:
            return None
        slopes = self._slopes(dtype)
        # The slopes of the query heads that share this head of keys.
        own = lax.dynamic_slice_in_dim(slopes, head % self.num_kv_heads * self.groups, self.groups)
        rows = jnp.broadcast_to(own, (steps, self.groups)).reshape(-1)
        distance = _negative_distance(*self._block_positions(head, step, steps, key, keys), dtype)
        return lax.broadcast_in_dim(rows, distance.shape, (0,)) * distance

    def positions_of(self, steps: int, keys: int) -> tuple[jax.Array, jax.Array]:
        """Positions of the queries (B or 1, T) and of the keys (B or 1, S)."""
        if self.positions is not None:
            return self.positions
        queries = jnp.arange(steps, dtype=jnp.int32) + self.offset
        return queries[None], jnp.arange(keys, dtype=jnp.int32)[None]

    def _block_positions(
        self, head: jax.Array, step: Index, steps: int, key: Index, keys: int
    ) -> tuple[jax.Array, jax.Array]:
        """Positions of the queries, one for each row of a block, and of its keys."""
        if self.positions is None:
            queries = jnp.arange(steps, dtype=jnp.int32) + (step + self.offset)
            columns = jnp.arange(keys, dtype=jnp.int32) + key
        else:
            batch = head // self.num_kv_heads
            slices = zip(self.positions, (step, key), (steps, keys), strict=True)
            queries, columns = (_slice_row(row, batch, start, n) for row, start, n in slices)
        rows = jnp.broadcast_to(queries[:, None], (steps, self.groups)).reshape(-1)
        return rows, columns

    def _slopes(self, dtype: DTypeLike) -> jax.Array:
        """By how much the scores of each head fall, (num_heads,)."""
        if isinstance(self.alibi, tuple):
            return jnp.asarray(self.alibi, dtype)
        return jnp.asarray(alibi_slopes(self.groups * self.num_kv_heads), dtype)

    def _mask_block(
        self, head: jax.Array, step: Index, steps: int, key: Index, keys: int
    ) -> jax.Array:
        """(steps, groups, keys) of the mask, sliced before it is broadcast."""
        assert self.mask is not None
        batch, first_head = head // self.num_kv_heads, head % self.num_kv_heads * self.groups
        start = (batch, first_head, step, key)
        size = (1, self.groups, steps, keys)
        # An axis of size 1 is broadcast: its only index is 0, whatever the block.
        varies = [axis != 1 for axis in self.mask.shape]
        part = lax.dynamic_slice(
            self.mask,
            [jnp.int32(i if v else 0) for i, v in zip(start, varies, strict=True)],
            [n if v else 1 for n, v in zip(size, varies, strict=True)],
        )
        return jnp.broadcast_to(part[0].swapaxes(0, 1), (steps, self.groups, keys))


def alibi_slopes(num_heads: int) -> np.ndarray:
    """How fast the scores of each head fall with the distance: ``2 ** (-8 i / num_heads)``.

    For a number of heads that is not a power of two: the slopes for the next lower power, then
    every other one of those for the next higher power (Press et al., 2022, arXiv:2108.12409, and
    their code).

    Args:
      num_heads: at least 1.

    Returns:
      float64 (num_heads,).

    >>> import jlayers as jl
    >>> jl.core.alibi_slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    # The largest power of two that is not above the number of heads.
    lower = 1 << (num_heads.bit_length() - 1)

    def powers(n: int) -> np.ndarray:
        return 2.0 ** (-8.0 * np.arange(1, n + 1) / n)

    return np.concatenate([powers(lower), powers(2 * lower)[::2][: num_heads - lower]])


def _slice_row(positions: jax.Array, batch: Index, start: Index, size: int) -> jax.Array:
    """``positions[batch, start : start + size]`` for traced indices."""
    return lax.dynamic_slice(positions, [jnp.int32(batch), jnp.int32(start)], [1, size])[0]


def _pairs(queries: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as (..., queries, keys)."""
    shape = (*queries.shape, keys.shape[-1])
    return jnp.broadcast_to(queries[..., None], shape), jnp.broadcast_to(keys[..., None, :], shape)


def _not_later(queries: jax.Array, keys: jax.Array) -> jax.Array:
    q, k = _pairs(queries, keys)
    return q >= k


def _within(
    queries: jax.Array, keys: jax.Array, window: tuple[int, int], causal: bool
) -> jax.Array:
    q, k = _pairs(queries, keys)
    near = q - k < window[0] + 1
    # That no key is later has been asked already.
    return near if causal else near & (k - q < window[1] + 1)


def _matching(queries: jax.Array, keys: jax.Array, pattern: Pattern) -> jax.Array:
    q, k = _pairs(queries, keys)
    found = pattern(q, k)
    if jnp.shape(found) != q.shape or jnp.result_type(found).kind != "b":
        raise ValueError(
            f"the pattern must give bools of the shape of its arguments, {q.shape}, not "
            f"{jnp.result_type(found)} of {jnp.shape(found)}"
        )
    return found


def _negative_distance(queries: jax.Array, keys: jax.Array, dtype: DTypeLike) -> jax.Array:
    q, k = _pairs(queries, keys)
    return -jnp.abs(q - k).astype(dtype)
