"""Blockwise attention: the scores of one block of rows at a time, and never all of them.

One head after another (``lax.map``), its rows in blocks small enough for the cache, each against
the keys that it may see and no others. The gradient recomputes the scores block by block from the
log of the softmax's denominator, as in FlashAttention (Dao et al., 2022, arXiv:2205.14135), with
blocks of keys: two of its three sums are then whole products, and only the queries' accumulates.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..dtypes import at_least_float32
from .mask import Sight

# More blocks than this run in loops, so that neither the program nor its memory grows with their
# number: XLA gives each block outside a loop memory of its own.
_SEGMENTS = 8


class Blocks(NamedTuple):
    """Steps of one block of scores: queries in the forward pass, keys in the backward pass."""

    queries: int
    keys: int


class Scores(NamedTuple):
    """What becomes of the products of queries and keys.

    Attributes:
      scale: of the products.
      cap: which no score exceeds: ``cap * tanh(score / cap)``; None for none.
    """

    scale: float
    cap: float | None = None

    def capped(self, scores: jax.Array) -> jax.Array:
        if self.cap is None:
            return scores
        cap = np.array(self.cap, scores.dtype)
        return jnp.tanh(scores / cap) * cap

    def uncapped(self, ct: jax.Array, capped: jax.Array) -> jax.Array:
        """The cotangent of the scores before ``capped``, of that after it."""
        if self.cap is None:
            return ct
        part = capped / np.array(self.cap, capped.dtype)
        return ct * (1 - part * part)


def forward(
    q: jax.Array, k: jax.Array, v: jax.Array, *, sight: Sight, scores: Scores, blocks: Blocks
) -> tuple[jax.Array, jax.Array]:
    """Attention, and the log of the softmax's denominator of every row.

    Args:
      q: (B, T, N, H). k, v: (B, S, K, H), N a multiple of K.
      sight: which keys a query sees; one that sees none gives zeros.
      scores: how they are made.
      blocks: steps of a block.

    Returns:
      (out (B, T, N, H), (B * K, T * N / K) in float32 at least).
    """
    batch, _, heads, _ = q.shape
    groups, all_keys = sight.groups, k.shape[1]
    loops = _SEGMENTS if sight.causal and sight.span is None else 1

    def one_head(operands: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        head, q, k, v = operands[0], *map(_wide, operands[1:])
        q = q * np.array(scores.scale, q.dtype)

        def block(start: Any, steps: int, seen: int) -> tuple[jax.Array, jax.Array]:
            """Queries ``start`` up to ``start + steps``, and the keys up to ``seen``."""
            queries = lax.dynamic_slice_in_dim(q, start * groups, steps * groups, 0)
            first, seen = _keys_of(sight, start, steps, seen, all_keys)
            keys, values = (lax.dynamic_slice_in_dim(a, first, seen, 0) for a in (k, v))
            made = scores.capped(_dot(queries, keys, 1, 1))
            made = _seen(made, sight, (head, start, steps, first, seen))
            largest = lax.stop_gradient(jnp.max(made, 1, keepdims=True))
            if sight.of_none:
                largest = jnp.where(jnp.isneginf(largest), jnp.zeros_like(largest), largest)
            # The barrier keeps XLA from computing the exponential once for each of its two uses.
            weights = lax.optimization_barrier(jnp.exp(made - largest))
            total = jnp.sum(weights, 1, keepdims=True)
            if sight.of_none:
                total = jnp.where(total == 0, jnp.ones_like(total), total)
            return _dot(weights, values, 1, 0) / total, (largest + jnp.log(total))[:, 0]

        def segment(start: int, steps: int, count: int) -> tuple[jax.Array, jax.Array]:
            seen = all_keys
            if sight.causal:
                seen = min(max(start + steps * count + sight.offset, 0), seen)
            if seen == 0:
                rows = steps * count * groups
                return jnp.zeros((rows, v.shape[1]), v.dtype), jnp.zeros(rows, v.dtype)
            if count == 1:
                return block(start, steps, seen)
            starts = _starts(head, start, steps, count)
            out, total = lax.map(lambda at: block(at, steps, seen), starts)
            return out.reshape(-1, out.shape[-1]), total.reshape(-1)

        parts = [segment(*part) for part in _segments(q.shape[0] // groups, blocks.queries, loops)]
        out, totals = (jnp.concatenate(part) for part in zip(*parts, strict=True))
        return out.astype(operands[1].dtype), totals

    every = jnp.arange(batch * sight.kv_heads, dtype=jnp.int32)
    folded = (_fold(q, sight.kv_heads), _fold(k), _fold(v))
    out, totals = lax.map(one_head, (every, *folded))
    return _unfold(out, batch, heads), totals


def backward(
    args: tuple[jax.Array, jax.Array, jax.Array],
    residuals: tuple[jax.Array, jax.Array],
    ct: jax.Array,
    *,
    sight: Sight,
    scores: Scores,
    blocks: Blocks,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The cotangents of q, k and v, linear in ``ct``.

    Args:
      args: q, k, v of ``forward``. residuals: what it gave. ct: (B, T, N, H).
      sight, scores, blocks: as given to ``forward``.
    """
    q, k, v = args
    out, totals = residuals
    batch, all_steps, heads, _ = q.shape
    groups, kv_heads = sight.groups, sight.kv_heads
    loops = _SEGMENTS if sight.causal and sight.span is None else 1

    # Nothing of a head is stored for another transformation: its blocks are computed again.
    @_recomputed
    def one_head(operands: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        head, totals = operands[:2]
        q, k, v, out, ct = map(_wide, operands[2:])
        q = q * np.array(scores.scale, q.dtype)
        inner = jnp.sum(out * ct, 1)

        def block(start: Any, size: int, low: int) -> tuple[Any, tuple[jax.Array, ...]]:
            """Keys ``start`` up to ``start + size``, and the queries from step ``low`` on.

            Gives the first of its queries' rows, and the cotangents of these, of keys and values.
            """
            first, steps = _queries_of(sight, start, size, low, all_steps)
            row = first * groups
            keys, values = (lax.dynamic_slice_in_dim(a, start, size, 0) for a in (k, v))
            queries, above, log, inward = (
                lax.dynamic_slice_in_dim(a, row, steps * groups, 0) for a in (q, ct, totals, inner)
            )
            capped = scores.capped(_dot(keys, queries, 1, 1))
            made = _seen(capped, sight, (head, first, steps, start, size), turned=True)
            weights = lax.optimization_barrier(jnp.exp(made - _row(log, made)))
            of_weights = _dot(values, above, 1, 1)
            of_scores = weights * (of_weights - _row(inward, of_weights))
            of_scores = scores.uncapped(of_scores, capped)
            of_values = _dot(weights, above, 1, 0)
            of_keys = _dot(of_scores, queries, 1, 0)
            return row, (_dot(keys, of_scores, 0, 0), of_keys, of_values)

        def segment(start: int, size: int, count: int) -> tuple[jax.Array, ...]:
            low = max(start - sight.offset, 0) if sight.causal and sight.span is None else 0
            before = low * groups

            @_recomputed
            def step(total: jax.Array, at: Any) -> tuple[jax.Array, Any]:
                row, (of_queries, *rest) = block(at, size, low)
                row = row - before
                there = lax.dynamic_slice_in_dim(total, row, of_queries.shape[1], 1)
                return lax.dynamic_update_slice_in_dim(total, there + of_queries, row, 1), rest

            total = jnp.zeros((q.shape[1], q.shape[0] - before), q.dtype)
            if count == 1:
                total, (of_keys, of_values) = step(total, start)
            else:
                starts = _starts(head, start, size, count)
                total, (of_keys, of_values) = lax.scan(step, total, starts)
                of_keys = of_keys.reshape(-1, k.shape[1])
                of_values = of_values.reshape(-1, v.shape[1])
            edges = ((0, 0, 0), (before, 0, 0))
            return lax.pad(total, np.array(0, q.dtype), edges), of_keys, of_values

        parts = [segment(*part) for part in _segments(k.shape[0], blocks.keys, loops)]
        of_queries, of_keys, of_values = zip(*parts, strict=True)
        total = sum(of_queries[1:], of_queries[0]) * np.array(scores.scale, q.dtype)
        grads = (total.T, jnp.concatenate(of_keys), jnp.concatenate(of_values))
        return tuple(g.astype(a.dtype) for g, a in zip(grads, operands[2:], strict=False))

    every = jnp.arange(batch * kv_heads, dtype=jnp.int32)
    folded = (_fold(q, kv_heads), _fold(k), _fold(v), _fold(out, kv_heads), _fold(ct, kv_heads))
    dq, dk, dv = lax.map(one_head, (every, totals, *folded))
    return _unfold(dq, batch, heads), _unfold(dk, batch, kv_heads), _unfold(dv, batch, kv_heads)


def _keys_of(sight: Sight, start: Any, steps: int, seen: int, keys: int) -> tuple[Any, int]:
    """(first, number) of the keys, up to ``seen``, that a block of queries sees."""
    if sight.span is None:
        return 0, seen
    size = min(keys, steps + sight.span - 1)
    return jnp.clip(start + sight.offset - sight.span + 1, 0, keys - size), size


def _queries_of(sight: Sight, start: Any, size: int, low: int, steps: int) -> tuple[Any, int]:
    """(first, number) of the queries, from ``low`` on, that see a block of keys."""
    if sight.span is None:
        return low, steps - low
    number = min(steps, size + sight.span - 1)
    return jnp.clip(start - sight.offset, 0, steps - number), number


def _segments(size: int, block: int, loops: int) -> list[tuple[int, int, int]]:
    """(start, steps of a block, number of blocks) of at most ``loops`` parts, and a rest."""
    whole, rest = divmod(size, block)
    # A loop of one turn would be no loop.
    parts = whole if whole <= loops else min(whole // 2, loops)
    ends = [whole * i // parts for i in range(parts + 1)] if parts else [0]
    segments = [(a * block, block, b - a) for a, b in itertools.pairwise(ends)]
    return segments + ([(whole * block, rest, 1)] if rest else [])


def _starts(head: jax.Array, start: int, steps: int, count: int) -> jax.Array:
    # Were they the same for every head, as they are, JAX would take out of the loop over heads
    # what follows from them alone: the triangles of all blocks, stored.
    return start + steps * jnp.arange(count, dtype=jnp.int32) + jnp.minimum(head, 0)


def _fold(x: jax.Array, kv_heads: int | None = None) -> jax.Array:
    """(B, T, N, H) to (B * K, T * N / K, H): the heads that share keys as neighbouring rows."""
    batch, steps, heads, size = x.shape
    kv_heads = kv_heads or heads
    x = x.reshape(batch, steps, kv_heads, heads // kv_heads, size)
    return x.transpose(0, 2, 1, 3, 4).reshape(batch * kv_heads, -1, size)


def _unfold(x: jax.Array, batch: int, heads: int) -> jax.Array:
    """Back to (B, T, N, H)."""
    folded, rows, size = x.shape
    groups = heads * batch // folded
    x = x.reshape(batch, folded // batch, rows // groups, groups, size)
    return x.transpose(0, 2, 1, 3, 4).reshape(batch, rows // groups, heads, size)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(at_least_float32(x.dtype))


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    return lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())))


def _seen(
    scores: jax.Array, sight: Sight, where: tuple[Any, Any, int, Any, int], turned: bool = False
) -> jax.Array:
    """A block of scores, (rows, keys) or ``turned``, with what ``sight`` adds and hides."""
    visible, bias = sight.block(*where), sight.block_bias(*where, dtype=scores.dtype)
    if bias is not None:
        scores = scores + (bias.T if turned else bias)
    if visible is None:
        return scores
    return jnp.where(visible.T if turned else visible, scores, -jnp.inf)


def _row(x: jax.Array, like: jax.Array) -> jax.Array:
    return lax.broadcast_in_dim(x, like.shape, (1,))


def _recomputed(f: Callable[..., Any]) -> Callable[..., Any]:
    return jax.checkpoint(f, prevent_cse=False)
