"""Which keys a query sees, and at what price: all scores at once, or one block of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Sight(NamedTuple):
    """Of T queries in N heads, and S keys in N / groups heads.

    Attributes:
      mask: (B or 1, N or 1, T or 1, S or 1), True where a query sees a key; None where all do.
      positions: of the queries (B, T) and of the keys (B, S), int32, by which ``window`` and
        ``alibi`` go; None where they are t + offset and s.
      causal: whether query t sees the keys up to t + offset alone.
      window: how many positions a query sees, its own included; None for all.
      alibi: whether scores fall with the distance.
      offset: S - T, so that the last query sees the last key.
      groups: query heads to one head of keys.
      kv_heads: heads of keys.
    """

    mask: jax.Array | None
    positions: tuple[jax.Array, jax.Array] | None
    causal: bool
    window: int | None
    alibi: bool
    offset: int
    groups: int
    kv_heads: int

    @property
    def of_none(self) -> bool:
        """Whether some query may see no key at all."""
        past = self.offset < 0 or (self.window is not None and self.positions is not None)
        return self.mask is not None or (self.causal and past)

    @property
    def span(self) -> int | None:
        """How many neighbouring keys hold all that a query sees; None where that is not known."""
        return self.window if self.positions is None else None

    def whole(self, steps: int, keys: int) -> jax.Array | None:
        """(B or 1, N or 1, T or 1, S or 1), or None where every query sees every key."""
        parts = [] if self.mask is None else [self.mask]
        if self.causal:
            rows = jnp.arange(steps, dtype=jnp.int32) + self.offset
            parts.append(_least(rows, jnp.arange(keys, dtype=jnp.int32))[None, None])
        if self.window is not None:
            parts.append(_near(*self._places(steps, keys), self.window)[:, None])
        if not parts:
            return None
        shape = jnp.broadcast_shapes(*(part.shape for part in parts))
        seen = jnp.broadcast_to(parts[0], shape)
        for part in parts[1:]:
            seen = seen & jnp.broadcast_to(part, shape)
        return seen

    def whole_bias(self, steps: int, keys: int, dtype: Any) -> jax.Array | None:
        """What is added to the scores, (B or 1, N, T, S), or None."""
        if not self.alibi:
            return None
        slopes = _slopes(self.groups * self.kv_heads, dtype)[None, :, None]
        apart = _apart(*self._places(steps, keys), dtype)[:, None]
        shape = (apart.shape[0], slopes.shape[1], *apart.shape[2:])
        return jnp.broadcast_to(slopes[..., None], shape) * jnp.broadcast_to(apart, shape)

    def block(self, head: Any, step: Any, steps: int, key: Any, keys: int) -> jax.Array | None:
        """(steps * groups, keys) of one head; the queries of one step are neighbours.

        Args:
          head: index among B * kv_heads.
          step, steps: the first step and their number.
          key, keys: the first key and their number.
        """
        shape = (steps * self.groups, keys)
        parts = []
        if self.causal:
            rows = lax.broadcasted_iota(jnp.int32, shape, 0) + (step + self.offset) * self.groups
            columns = lax.broadcasted_iota(jnp.int32, shape, 1) + key
            parts.append(rows >= columns * self.groups)
        if self.window is not None:
            parts.append(_near(*self._block_places(head, step, steps, key, keys), self.window))
        if self.mask is not None:
            parts.append(self._part(head, step, steps, key, keys).reshape(shape))
        seen = parts[0] if parts else None
        for part in parts[1:]:
            seen = seen & part
        return seen

    def block_bias(
        self, head: Any, step: Any, steps: int, key: Any, keys: int, dtype: Any
    ) -> jax.Array | None:
        """What is added to a block of scores, (steps * groups, keys), or None."""
        if not self.alibi:
            return None
        slopes = _slopes(self.groups * self.kv_heads, dtype)
        own = lax.dynamic_slice_in_dim(slopes, head % self.kv_heads * self.groups, self.groups)
        rows = jnp.broadcast_to(own, (steps, self.groups)).reshape(-1)
        apart = _apart(*self._block_places(head, step, steps, key, keys), dtype)
        return lax.broadcast_in_dim(rows, apart.shape, (0,)) * apart

    def _places(self, steps: int, keys: int) -> tuple[jax.Array, jax.Array]:
        """Positions of the queries (B or 1, T) and of the keys (B or 1, S)."""
        if self.positions is not None:
            return self.positions
        rows = jnp.arange(steps, dtype=jnp.int32) + self.offset
        return rows[None], jnp.arange(keys, dtype=jnp.int32)[None]

    def _block_places(
        self, head: Any, step: Any, steps: int, key: Any, keys: int
    ) -> tuple[jax.Array, jax.Array]:
        """Positions of the queries, one for each row of a block, and of its keys."""
        if self.positions is None:
            rows = jnp.arange(steps, dtype=jnp.int32) + (step + self.offset)
            columns = jnp.arange(keys, dtype=jnp.int32) + key
        else:
            batch = head // self.kv_heads
            cuts = zip(self.positions, (step, key), (steps, keys), strict=True)
            rows, columns = (_cut(places, batch, first, n) for places, first, n in cuts)
        return jnp.broadcast_to(rows[:, None], (steps, self.groups)).reshape(-1), columns

    def _part(self, head: Any, step: Any, steps: int, key: Any, keys: int) -> jax.Array:
        """(steps, groups, keys) of the mask, cut out before it is broadcast."""
        assert self.mask is not None
        start = (head // self.kv_heads, head % self.kv_heads * self.groups, step, key)
        size = (1, self.groups, steps, keys)
        varies = [axis != 1 for axis in self.mask.shape]
        part = lax.dynamic_slice(
            self.mask,
            [jnp.int32(at if v else 0) for at, v in zip(start, varies, strict=True)],
            [n if v else 1 for n, v in zip(size, varies, strict=True)],
        )
        return jnp.broadcast_to(part[0].swapaxes(0, 1), (steps, self.groups, keys))


def alibi_slopes(heads: int) -> np.ndarray[Any, Any]:
    """How fast the scores of each head fall with the distance: ``2 ** (-8 i / heads)``.

    For numbers that are no power of two, those of the next lower one, and every other one of those
    of the next higher one (Press et al., 2022, arXiv:2108.12409, and their code).
    """
    lower = 1 << (heads.bit_length() - 1)

    def powers(n: int) -> np.ndarray[Any, Any]:
        return 2.0 ** (-8.0 * np.arange(1, n + 1) / n)

    return np.concatenate([powers(lower), powers(2 * lower)[::2][: heads - lower]])


def _slopes(heads: int, dtype: Any) -> jax.Array:
    return jnp.asarray(alibi_slopes(heads), dtype)


def _cut(places: jax.Array, batch: Any, first: Any, size: int) -> jax.Array:
    return lax.dynamic_slice(places, [jnp.int32(batch), jnp.int32(first)], [1, size])[0]


def _pairs(rows: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as (..., rows, columns)."""
    shape = (*rows.shape, columns.shape[-1])
    return jnp.broadcast_to(rows[..., None], shape), jnp.broadcast_to(columns[..., None, :], shape)


def _least(rows: jax.Array, columns: jax.Array) -> jax.Array:
    a, b = _pairs(rows, columns)
    return a >= b


def _near(rows: jax.Array, columns: jax.Array, window: int) -> jax.Array:
    a, b = _pairs(rows, columns)
    return a - b < window


def _apart(rows: jax.Array, columns: jax.Array, dtype: Any) -> jax.Array:
    """Minus the distance."""
    a, b = _pairs(rows, columns)
    return -jnp.abs(a - b).astype(dtype)
