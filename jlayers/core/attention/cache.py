"""Attention of a block of steps to the keys and values of all steps before it.

How to read this file: ``cached_attention`` writes to a ``Cache`` and attends to it. ``_written`` is
the cache after the steps, in place where its buffers are donated or carried by a loop. What follows
are two ways to attend where a written step replaces an older one that earlier queries still need:
to the ring and the replaced steps apart, or to all of them side by side. The note
docs/notes/0015-decoding.md says why nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
from jax import lax

from ..dispatch import compiled_when_eager
from ..dtypes import is_sharded
from ..positions import positions_from_mask
from .attention import attention, score_options
from .direct import ScoreTerms, attend_to_cached
from .mask import AttentionMask, Pattern
from .relative import RelativeTables

# Rows of scores of a head up to which all scores at once take less memory than a copy of the keys.
_MAX_ROWS = 64


class Cache(NamedTuple):
    """The last S valid steps of each row; the step at position p is in slot ``p % S``.

    Attributes:
      keys, values: (batch, num_kv_heads, S, size of a head), as the products with them read it;
        ``values`` may be None where they are the keys themselves.
      lengths: valid steps so far, int32 (batch,).

    >>> import jax.numpy as jnp, jlayers as jl
    >>> empty = jnp.zeros((1, 2, 3, 4))
    >>> jl.core.Cache(empty, empty, jnp.array([4], jnp.int32)).positions().tolist()
    [[3, 1, 2]]
    """

    keys: jax.Array
    values: jax.Array | None
    lengths: jax.Array

    def positions(self) -> jax.Array:
        """The position of the step in each slot, (batch, S); negative where the slot is empty."""
        slots = self.keys.shape[2]
        shape = (self.lengths.shape[0], slots)
        last = jnp.broadcast_to(self.lengths[:, None] - 1, shape)
        # The largest position up to the last that is congruent to the slot's number modulo S.
        return last - (last - lax.broadcasted_iota(jnp.int32, shape, 1)) % slots


class _Options(TypedDict):
    """How ``attention`` makes scores."""

    pattern: Pattern | None
    alibi: bool | tuple[float, ...]
    relative: RelativeTables | None
    soft_cap: float | None
    scale: float | None
    sinks: jax.Array | None
    dropout_rate: float
    key: jax.Array | None


@compiled_when_eager("window", "pattern", "alibi", "soft_cap", "scale", "dropout_rate", "method")
def cached_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    cache: Cache,
    *,
    mask: jax.Array | None = None,
    window: int | None = None,
    pattern: Pattern | None = None,
    alibi: bool | tuple[float, ...] = False,
    relative: RelativeTables | None = None,
    soft_cap: float | None = None,
    scale: float | None = None,
    sinks: jax.Array | None = None,
    dropout_rate: float = 0.0,
    key: jax.Array | None = None,
    method: str | None = None,
) -> tuple[jax.Array, Cache]:
    """Causal attention of the next steps of sequences, each with a position of its own.

    The rows of the batch may have had different numbers of steps so far. A step that the mask
    leaves out is not written to the cache, and no query attends to it. In a loop that carries the
    cache, and in a program to which it is donated, it is written in place, and copied only for a
    long block with a window.

    Args:
      q: (batch, T, num_heads, head_dim). k, v: (batch, T, num_kv_heads, head_dim) and (...,
        value_dim), of the same steps; ``v`` is ``k`` for a cache without values.
      cache: of the steps before them. With a window it has that many slots; without one, S is the
        largest number of steps that fit.
      mask: bools (batch, T), True for valid steps; all of them if None.
      window: to how many valid steps a query attends, its own included.
      pattern, alibi, relative, soft_cap, scale, sinks, dropout_rate, key, method: as for
        ``attention``.

    Returns:
      (out (batch, T, num_heads, value_dim), the cache after these steps). Without a window, the
      steps that no longer fit into the cache give NaN.

    Raises:
      ValueError: for a method that cannot compute this attention.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> empty, q = jnp.zeros((2, 4, 8, 16)), jnp.ones((2, 3, 4, 16))
    >>> cache = jl.core.Cache(empty, empty, jnp.zeros(2, jnp.int32))
    >>> out, cache = jl.core.cached_attention(q, q, q, cache)
    >>> out.shape, cache.lengths.tolist()
    ((2, 3, 4, 16), [3, 3])
    """
    batch, steps, num_heads, _ = q.shape
    num_kv_heads, slots = cache.keys.shape[1:3]
    valid = jnp.ones((batch, steps), bool) if mask is None else mask
    block = _Block(q, k, v, valid, positions_from_mask(valid, cache.lengths))
    options: _Options = {
        "pattern": pattern,
        "alibi": alibi,
        "relative": relative,
        "soft_cap": soft_cap,
        "scale": scale,
        "sinks": sinks,
        "dropout_rate": dropout_rate,
        "key": key,
    }
    few = steps * num_heads <= _MAX_ROWS * num_kv_heads
    if window is not None and steps > 1:
        if few and steps <= slots and method in (None, "direct"):
            return _attend_apart(block, cache, options)
        return _attend_side_by_side(block, cache, window, options, method)
    # Written first: each query finds its own key in the cache.
    positions = block.positions
    if window is None:
        after = _written(block, cache, fits=positions < slots)
        cached = jnp.broadcast_to(jnp.arange(slots, dtype=jnp.int32), (batch, slots))
        visible = _pairs(jnp.greater_equal, positions, cached)
    else:
        after = _written(block, cache, fits=valid)
        cached = after.positions()
        visible = (cached >= 0)[:, None]
    where = positions, cached
    if few and method in (None, "direct"):
        out = _attend(q, [after.keys], [_values(after)], visible, where, options)
    else:
        keys, values = _by_steps(after.keys), _by_steps(_values(after))
        out = attention(
            q, keys, values, mask=visible[:, None], positions=where, method=method, **options
        )
    if window is not None:
        return out, after
    # A shape cannot depend on a count, and an error cannot be raised from a compiled program.
    overflow = (valid & (positions >= slots))[..., None, None]
    return jnp.where(jnp.broadcast_to(overflow, out.shape), jnp.full_like(out, jnp.nan), out), after


class _Block(NamedTuple):
    """The next steps.

    Attributes:
      q, k, v: as given to ``cached_attention``.
      valid: bools (batch, T).
      positions: int32 (batch, T).
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    valid: jax.Array
    positions: jax.Array

    def lengths_after(self, cache: Cache) -> jax.Array:
        """The valid steps of each row up to the end of the block."""
        return cache.lengths + jnp.sum(self.valid, 1, dtype=jnp.int32)


def _written(block: _Block, cache: Cache, fits: jax.Array) -> Cache:
    """The cache with those steps of the block that are valid and ``fits``, (batch, T)."""
    (batch, steps), (_, heads, slots, _) = block.valid.shape, cache.keys.shape
    # Slots from S on do not exist: what is written there is dropped.
    nowhere = lax.broadcasted_iota(jnp.int32, (batch, steps), 1) + slots
    slot = jnp.where(block.valid & fits, block.positions % slots, nowhere)
    if is_sharded(cache.keys):
        return _written_apart(block, cache, slot)
    slot = jnp.repeat(slot, heads, 0)
    rows = lax.broadcasted_iota(jnp.int32, slot.shape, 0)
    if slot.shape == (1, 1):
        # Of one write XLA makes another operation, which it fuses with the reading, and copies.
        # A second one is dropped.
        rows, slot = (jnp.concatenate([a, a + n], 1) for a, n in ((rows, 0), (slot, slots)))

    def write(buffer: jax.Array, new: jax.Array) -> jax.Array:
        size = buffer.shape[-1]
        folded = buffer.reshape(batch * heads, slots, size)
        new = jnp.swapaxes(new, 1, 2).reshape(batch * heads, steps, size)
        new = jnp.broadcast_to(new, (*slot.shape, size))
        if heads == 1:
            # XLA for CPU may take the axis that a reshape adds for another layout, and copies.
            at = rows, jnp.zeros_like(rows), slot
            return buffer.at[at].set(new, mode="drop", unique_indices=True)
        written = folded.at[rows, slot].set(new, mode="drop", unique_indices=True)
        return written.reshape(buffer.shape)

    keys = write(cache.keys, block.k)
    values = None if cache.values is None else write(cache.values, block.v)
    return Cache(keys, values, block.lengths_after(cache))


def _written_apart(block: _Block, cache: Cache, slot: jax.Array) -> Cache:
    """``_written`` on a mesh that may split rows and heads, whose axes are left as they are."""

    def write(buffer: jax.Array, new: jax.Array) -> jax.Array:
        def one(buffer: jax.Array, slot: jax.Array, new: jax.Array) -> jax.Array:
            return buffer.at[slot].set(new, mode="drop", unique_indices=True)

        of_heads = jax.vmap(one, (0, None, 0))
        return jax.vmap(of_heads)(buffer, slot, jnp.swapaxes(new, 1, 2))

    keys = write(cache.keys, block.k)
    values = None if cache.values is None else write(cache.values, block.v)
    return Cache(keys, values, block.lengths_after(cache))


def _attend(
    q: jax.Array,
    keys: list[jax.Array],
    values: list[jax.Array],
    visible: jax.Array,
    positions: tuple[jax.Array, jax.Array],
    options: _Options,
) -> jax.Array:
    """All scores at once; ``visible`` is (batch, T, S)."""
    num_kv_heads = keys[0].shape[1]
    mask = AttentionMask(
        visible[:, None],
        positions,
        False,
        None,
        options["alibi"],
        offset=0,
        groups=q.shape[2] // num_kv_heads,
        num_kv_heads=num_kv_heads,
        pattern=options["pattern"],
    )
    rate = options["dropout_rate"]
    key = options["key"] if rate else None
    terms = ScoreTerms(None, options["sinks"], options["relative"], key, rate)
    how = score_options(q, options["scale"], options["soft_cap"])
    return attend_to_cached(q, keys, values, mask, how, terms)


def _attend_apart(block: _Block, cache: Cache, options: _Options) -> tuple[jax.Array, Cache]:
    """To a ring after the block, and to the steps that the block has replaced in it."""
    slots, positions = cache.keys.shape[2], block.positions
    replaced = [
        jnp.take_along_axis(a, (positions % slots)[:, None, :, None], 2)
        for a in (cache.keys, _values(cache))
    ]
    after = _written(_after_reading(block, *map(_by_steps, replaced)), cache, block.valid)
    cached = after.positions()
    # Of a step that is not valid none is replaced.
    old = jnp.where(block.valid, positions - slots, -1)
    keys = jnp.concatenate([cached, old], 1)
    # A ring has as many slots as the window has steps.
    visible = (keys >= 0)[:, None] & _pairs(jnp.greater_equal, positions, keys)
    visible = visible & _pairs(lambda q, k: q - k < slots, positions, keys)
    parts = [after.keys, replaced[0]], [_values(after), replaced[1]]
    return _attend(block.q, *parts, visible, (positions, keys), options), after


def _attend_side_by_side(
    block: _Block, cache: Cache, window: int, options: _Options, method: str | None
) -> tuple[jax.Array, Cache]:
    """To the ring before the block and the block itself, in one array, for long blocks."""
    cached, slots = cache.positions(), cache.keys.shape[2]
    keys, values = (
        jnp.concatenate([_by_steps(ring), new], 1)
        for ring, new in ((cache.keys, block.k), (_values(cache), block.v))
    )
    out = attention(
        block.q,
        keys,
        values,
        causal=True,
        window=window,
        mask=jnp.concatenate([cached >= 0, block.valid], 1)[:, None, None],
        positions=(block.positions, jnp.concatenate([cached, block.positions], 1)),
        method=method,
        **options,
    )
    steps = block.q.shape[1]
    last = block.positions >= (block.lengths_after(cache) - slots)[:, None]
    return out, _written(_after_reading(block, keys[:, -steps:], values[:, -steps:]), cache, last)


def _after_reading(block: _Block, keys: jax.Array, values: jax.Array) -> _Block:
    """The block, as something that depends on what has been read from the cache.

    XLA copies a buffer that may be written before it is read, and knows the order from operands
    alone (it drops ``optimization_barrier`` too early). No position is negative, but XLA cannot
    know.
    """
    known = (block.positions >= 0)[..., None, None]
    k, v = (
        jnp.where(jnp.broadcast_to(known, new.shape), new, old)
        for new, old in ((block.k, keys), (block.v, values))
    )
    return block._replace(k=k, v=v)


def _values(cache: Cache) -> jax.Array:
    return cache.keys if cache.values is None else cache.values


def _by_steps(cached: jax.Array) -> jax.Array:
    """(batch, heads, steps, size) as (batch, steps, heads, size), which no program lays out."""
    return jnp.swapaxes(cached, 1, 2)


def _pairs(
    compare: Callable[[jax.Array, jax.Array], jax.Array], queries: jax.Array, keys: jax.Array
) -> jax.Array:
    """(batch, T, S) of positions (batch, T) and (batch, S)."""
    shape = (*queries.shape, keys.shape[1])
    q, k = jnp.broadcast_to(queries[..., None], shape), jnp.broadcast_to(keys[:, None], shape)
    return compare(q, k)
