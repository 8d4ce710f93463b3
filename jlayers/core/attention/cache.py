"""Attention of a block of steps to the keys and values of all steps before it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .attention import attention
from .rotary import step_positions


class Cache(NamedTuple):
    """The last S valid steps of each row; the step at position p is in slot ``p % S``.

    Attributes:
      keys, values: (batch, S, kv_heads, size).
      seen: valid steps so far, int32 (batch,).
    """

    keys: jax.Array
    values: jax.Array
    seen: jax.Array

    def held(self) -> jax.Array:
        """The position that each slot holds, (batch, S); negative where it holds none yet."""
        slots = self.keys.shape[1]
        shape = (self.seen.shape[0], slots)
        last = jnp.broadcast_to(self.seen[:, None] - 1, shape)
        return last - (last - lax.broadcasted_iota(jnp.int32, shape, 1)) % slots


def cached_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    cache: Cache,
    *,
    mask: jax.Array | None = None,
    window: int | None = None,
    **how: Any,
) -> tuple[jax.Array, Cache]:
    """Causal attention of the next steps of sequences, each with a position of its own.

    What the rows of the batch have seen so far may differ in length. A step that is none is not
    written and counts for nothing.

    Args:
      q: (batch, T, heads, size). k, v: (batch, T, kv_heads, size), of the same steps.
      cache: of the steps before them. With a window of S slots; without one S is how many
        steps there is room for.
      mask: bools (batch, T), True for valid steps; all of them if None.
      window: how many valid steps a query sees, its own included.
      **how: ``alibi``, ``soft_cap``, ``scale`` and ``method`` of ``attention``.

    Returns:
      (out (batch, T, heads, size), the cache after these steps). Without a window the steps for
      which there is no room left give NaN.
    """
    batch, steps, *_ = q.shape
    valid = jnp.ones((batch, steps), bool) if mask is None else mask
    positions = step_positions(valid, cache.seen)
    count = cache.seen + jnp.sum(valid, 1, dtype=jnp.int32)
    if steps == 1:
        after = _with_step(k, v, cache, valid, count)
        held = after.held()
        here = (held >= 0)[:, None, None]
        out = attention(q, after.keys, after.values, mask=here, positions=(positions, held), **how)
    else:
        after = _with_block(k, v, cache, None if mask is None else valid, count)
        # The first steps of the block may see what its last ones overwrite.
        held = cache.held()
        here = jnp.concatenate([held >= 0, valid], 1)[:, None, None]
        out = attention(
            q,
            jnp.concatenate([cache.keys, k], 1),
            jnp.concatenate([cache.values, v], 1),
            causal=True,
            window=window,
            mask=here,
            positions=(positions, jnp.concatenate([held, positions], 1)),
            **how,
        )
    if window is not None:
        return out, after
    lost = (valid & (positions >= cache.keys.shape[1]))[..., None, None]
    return jnp.where(jnp.broadcast_to(lost, out.shape), jnp.full_like(out, jnp.nan), out), after


def _with_step(
    k: jax.Array, v: jax.Array, cache: Cache, valid: jax.Array, count: jax.Array
) -> Cache:
    """The cache with one more step of each row, in place where its buffers are given away."""
    slots = cache.keys.shape[1]
    rows = jnp.arange(len(count), dtype=jnp.int32)
    # No slot has the number of all slots: what is written there is dropped.
    slot = jnp.where(valid[:, 0], cache.seen % slots, slots)

    def put(there: jax.Array, new: jax.Array) -> jax.Array:
        at = there.at[rows, slot]
        return at.set(new[:, 0], mode="drop", unique_indices=True, indices_are_sorted=True)

    return Cache(put(cache.keys, k), put(cache.values, v), count)


def _with_block(
    k: jax.Array, v: jax.Array, cache: Cache, mask: jax.Array | None, count: jax.Array
) -> Cache:
    """The cache after a block of any number of steps."""
    after = cache._replace(seen=count)
    steps = k.shape[1]
    if steps == 0:
        return after
    # Of the block's valid steps, the one that each slot holds afterwards.
    taken = after.held() - jnp.broadcast_to(cache.seen[:, None], cache.keys.shape[:2])
    new = taken >= 0
    taken = jnp.clip(taken, 0, steps - 1)
    if mask is not None:
        valid_first = jnp.argsort(~mask, axis=1, stable=True).astype(jnp.int32)
        taken = jnp.take_along_axis(valid_first, taken, 1)

    def put(there: jax.Array, block: jax.Array) -> jax.Array:
        here = jnp.take_along_axis(block, taken[..., None, None], 1)
        return jnp.where(jnp.broadcast_to(new[..., None, None], there.shape), here, there)

    return after._replace(keys=put(cache.keys, k), values=put(cache.values, v))
