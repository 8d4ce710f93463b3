"""Attention of a block of steps to the keys and values of all steps before it.

How to read this file: ``cached_attention`` attends to a ``Cache`` and writes to it, one step by
``_with_step`` and a block by ``_with_block``, which finds the steps that the slots then hold.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..positions import positions_from_mask
from .attention import attention


class Cache(NamedTuple):
    """The last S valid steps of each row; the step at position p is in slot ``p % S``.

    Attributes:
      keys, values: (batch, S, num_kv_heads, head_dim).
      lengths: valid steps so far, int32 (batch,).

    >>> import jax.numpy as jnp, jlayers as jl
    >>> empty = jnp.zeros((1, 3, 2, 4))
    >>> jl.core.Cache(empty, empty, jnp.array([4], jnp.int32)).positions().tolist()
    [[3, 1, 2]]
    """

    keys: jax.Array
    values: jax.Array
    lengths: jax.Array

    def positions(self) -> jax.Array:
        """The position of the step in each slot, (batch, S); negative where the slot is empty."""
        slots = self.keys.shape[1]
        shape = (self.lengths.shape[0], slots)
        last = jnp.broadcast_to(self.lengths[:, None] - 1, shape)
        # The largest position up to the last that is congruent to the slot's number modulo S.
        return last - (last - lax.broadcasted_iota(jnp.int32, shape, 1)) % slots


def cached_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    cache: Cache,
    *,
    mask: jax.Array | None = None,
    window: int | None = None,
    alibi: bool = False,
    soft_cap: float | None = None,
    scale: float | None = None,
    method: str | None = None,
) -> tuple[jax.Array, Cache]:
    """Causal attention of the next steps of sequences, each with a position of its own.

    The rows of the batch may have had different numbers of steps so far. A step that the mask
    leaves out is not written to the cache, and no query attends to it.

    Args:
      q: (batch, T, num_heads, head_dim). k, v: (batch, T, num_kv_heads, head_dim), of the same
        steps.
      cache: of the steps before them. With a window it has that many slots; without one, S is the
        largest number of steps that fit.
      mask: bools (batch, T), True for valid steps; all of them if None.
      window: to how many valid steps a query attends, its own included.
      alibi, soft_cap, scale, method: as for ``attention``.

    Returns:
      (out (batch, T, num_heads, head_dim), the cache after these steps). Without a window, the
      steps that no longer fit into the cache give NaN.

    Raises:
      ValueError: for a method that cannot compute this attention.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> empty, q = jnp.zeros((2, 8, 4, 16)), jnp.ones((2, 3, 4, 16))
    >>> cache = jl.core.Cache(empty, empty, jnp.zeros(2, jnp.int32))
    >>> out, cache = jl.core.cached_attention(q, q, q, cache)
    >>> out.shape, cache.lengths.tolist()
    ((2, 3, 4, 16), [3, 3])
    """
    batch, steps, *_ = q.shape
    valid = jnp.ones((batch, steps), bool) if mask is None else mask
    positions = positions_from_mask(valid, cache.lengths)
    lengths = cache.lengths + jnp.sum(valid, 1, dtype=jnp.int32)
    attend = functools.partial(
        attention, q, alibi=alibi, soft_cap=soft_cap, scale=scale, method=method
    )
    if steps == 1:
        # Written first, so that the step finds its own key in the cache: no concatenation.
        after = _with_step(k, v, cache, valid, lengths)
        cached = after.positions()
        mask, positions_of_keys = (cached >= 0)[:, None, None], (positions, cached)
        out = attend(after.keys, after.values, mask=mask, positions=positions_of_keys)
    else:
        after = _with_block(k, v, cache, None if mask is None else valid, lengths)
        # The old cache: the first steps of the block attend to what its last ones overwrite.
        cached = cache.positions()
        visible = jnp.concatenate([cached >= 0, valid], 1)[:, None, None]
        out = attend(
            jnp.concatenate([cache.keys, k], 1),
            jnp.concatenate([cache.values, v], 1),
            causal=True,
            window=window,
            mask=visible,
            positions=(positions, jnp.concatenate([cached, positions], 1)),
        )
    if window is not None:
        return out, after
    # A shape cannot depend on a count, and an error cannot be raised from a compiled program.
    overflow = (valid & (positions >= cache.keys.shape[1]))[..., None, None]
    return jnp.where(jnp.broadcast_to(overflow, out.shape), jnp.full_like(out, jnp.nan), out), after


def _with_step(
    k: jax.Array, v: jax.Array, cache: Cache, valid: jax.Array, lengths: jax.Array
) -> Cache:
    """The cache with one more step of each row, in place where its buffers are donated."""
    slots = cache.keys.shape[1]
    rows = jnp.arange(len(lengths), dtype=jnp.int32)
    # Slot S does not exist: what is written there is dropped.
    slot = jnp.where(valid[:, 0], cache.lengths % slots, slots)

    def write(buffer: jax.Array, new: jax.Array) -> jax.Array:
        at = buffer.at[rows, slot]
        return at.set(new[:, 0], mode="drop", unique_indices=True, indices_are_sorted=True)

    return Cache(write(cache.keys, k), write(cache.values, v), lengths)


def _with_block(
    k: jax.Array, v: jax.Array, cache: Cache, mask: jax.Array | None, lengths: jax.Array
) -> Cache:
    """The cache after a block of any number of steps."""
    after = cache._replace(lengths=lengths)
    steps = k.shape[1]
    if steps == 0:
        return after
    # Of the block's valid steps, the index of the one that each slot holds afterwards; negative
    # where the slot stays as it is. A gather per slot, where a scatter per step would have to
    # settle which of two steps for one slot comes last.
    source = after.positions() - jnp.broadcast_to(cache.lengths[:, None], cache.keys.shape[:2])
    is_new = source >= 0
    source = jnp.clip(source, 0, steps - 1)
    if mask is not None:
        valid_first = jnp.argsort(~mask, axis=1, stable=True).astype(jnp.int32)
        source = jnp.take_along_axis(valid_first, source, 1)

    def write(buffer: jax.Array, block: jax.Array) -> jax.Array:
        new = jnp.take_along_axis(block, source[..., None, None], 1)
        return jnp.where(jnp.broadcast_to(is_new[..., None, None], buffer.shape), new, buffer)

    return after._replace(keys=write(cache.keys, k), values=write(cache.values, v))
