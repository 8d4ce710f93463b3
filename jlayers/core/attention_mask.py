"""Which keys a query sees: all scores at once, or one block of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Sight(NamedTuple):
    """Of T queries in N heads, and S keys in N / groups heads.

    Attributes:
      mask: (B or 1, N or 1, T or 1, S or 1), True where a query sees a key; None where all do.
      causal: whether query t sees the keys up to t + offset alone.
      offset: S - T, so that the last query sees the last key.
      groups: query heads to one head of keys.
      kv_heads: heads of keys.
    """

    mask: jax.Array | None
    causal: bool
    offset: int
    groups: int
    kv_heads: int

    @property
    def of_all(self) -> bool:
        """Whether every query sees every key."""
        return self.mask is None and not self.causal

    @property
    def of_none(self) -> bool:
        """Whether some query may see no key at all."""
        return self.mask is not None or (self.causal and self.offset < 0)

    def whole(self, steps: int, keys: int) -> jax.Array | None:
        """(B or 1, N or 1, T or 1, S or 1), or None where every query sees every key."""
        if not self.causal:
            return self.mask
        triangle = self._triangle((steps, keys), 0, 0, 1)[None, None]
        if self.mask is None:
            return triangle
        shape = jnp.broadcast_shapes(self.mask.shape, triangle.shape)
        return jnp.broadcast_to(self.mask, shape) & jnp.broadcast_to(triangle, shape)

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
            parts.append(self._triangle(shape, step, key, self.groups))
        if self.mask is not None:
            parts.append(self._part(head, step, steps, key, keys).reshape(shape))
        return parts[0] & parts[-1] if parts else None

    def _triangle(self, shape: tuple[int, int], step: Any, key: Any, groups: int) -> jax.Array:
        rows = lax.broadcasted_iota(jnp.int32, shape, 0) + (step + self.offset) * groups
        keys = lax.broadcasted_iota(jnp.int32, shape, 1) + key
        return rows >= keys * groups  # type: ignore[no-any-return]

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
