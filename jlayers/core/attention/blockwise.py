"""Blockwise attention: the scores of one block of rows at a time, and never all of them.

One head after another (``lax.map``), its rows in blocks small enough for the cache, each against
the keys that it attends to and no others. The gradient recomputes the scores block by block from
the log of the softmax's denominator, as in FlashAttention (Dao et al., 2022, arXiv:2205.14135),
with blocks of keys: two of its three sums are then complete products, and only that of the queries
accumulates.

How to read this file: ``forward`` and ``backward`` have the same structure, from the inside out:
``block`` (one block of scores), ``segment`` (a loop over blocks of one size), ``one_head`` (all
segments), and a ``lax.map`` over heads. ``_key_range`` and ``_query_range`` say which part of a row
or column of blocks is needed at all. Throughout, B is the batch, T and S the steps of queries and
keys, N heads of queries, K of keys, H the head dimension. docs/notes/0008-attention-and-norms.md
has the measurements.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..dtypes import at_least_float32
from .mask import AttentionMask, Index

# More blocks than this run in loops, so that neither the program nor its memory grows with their
# number: XLA gives each block outside a loop memory of its own. A causal head has up to so many
# loops, because the keys that a loop covers are those of its last block: with one loop, half of the
# scores would be computed for nothing.
_MAX_SEGMENTS = 8

# Rematerialised without the barriers that keep the two computations apart: the loops already do.
_rematerialized = functools.partial(jax.checkpoint, prevent_cse=False)


class BlockSizes(NamedTuple):
    """Steps of one block of scores: queries in the forward pass, keys in the backward pass."""

    queries: int
    keys: int


class ScoreOptions(NamedTuple):
    """How scores are made of the products of queries and keys.

    Attributes:
      scale: of the products.
      soft_cap: the bound c of ``c * tanh(score / c)``; None for none.
    """

    scale: float
    soft_cap: float | None = None

    def cap(self, scores: jax.Array) -> jax.Array:
        """``soft_cap * tanh(scores / soft_cap)``."""
        if self.soft_cap is None:
            return scores
        cap = np.array(self.soft_cap, scores.dtype)
        return jnp.tanh(scores / cap) * cap

    def cap_vjp(self, ct: jax.Array, capped: jax.Array) -> jax.Array:
        """The cotangent of the scores, of that of the ``capped`` ones."""
        if self.soft_cap is None:
            return ct
        tanh = capped / np.array(self.soft_cap, capped.dtype)
        return ct * (1 - tanh * tanh)


def forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: AttentionMask,
    options: ScoreOptions,
    sizes: BlockSizes,
) -> tuple[jax.Array, jax.Array]:
    """Attention, and the log of the softmax's denominator of every row.

    Args:
      q: (B, T, N, H). k, v: (B, S, K, H), N a multiple of K.
      mask: which keys a query attends to; one that attends to none gives zeros.
      options: how scores are made.
      sizes: steps of a block.

    Returns:
      (out (B, T, N, H), (B * K, T * N / K) in float32 at least).
    """
    batch, _, num_heads, _ = q.shape
    groups, all_keys = mask.groups, k.shape[1]

    def one_head(operands: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        head, q, k, v = operands[0], *map(_widen, operands[1:])
        q = q * np.array(options.scale, q.dtype)

        def block(start: Index, steps: int, key_end: int) -> tuple[jax.Array, jax.Array]:
            """Queries ``start`` up to ``start + steps``, and the keys up to ``key_end``."""
            # Dynamic slices, because `start` is traced inside a loop; outside they are constants.
            queries = lax.dynamic_slice_in_dim(q, start * groups, steps * groups, 0)
            first, count = _key_range(mask, start, steps, key_end, all_keys)
            keys, values = (lax.dynamic_slice_in_dim(a, first, count, 0) for a in (k, v))
            scores = options.cap(_dot(queries, keys, 1, 1))
            scores = _masked(scores, mask, (head, start, steps, first, count))
            largest = lax.stop_gradient(jnp.max(scores, 1, keepdims=True))
            if mask.may_be_empty:
                # Of a row of minus infinities: minus itself would be NaN.
                largest = jnp.where(jnp.isneginf(largest), jnp.zeros_like(largest), largest)
            # The barrier keeps XLA from computing the exponential once for each of its two uses.
            weights = lax.optimization_barrier(jnp.exp(scores - largest))
            total = jnp.sum(weights, 1, keepdims=True)
            if mask.may_be_empty:
                total = jnp.where(total == 0, jnp.ones_like(total), total)
            return _dot(weights, values, 1, 0) / total, (largest + jnp.log(total))[:, 0]

        def segment(start: int, steps: int, count: int) -> tuple[jax.Array, jax.Array]:
            """``count`` blocks of ``steps`` queries each."""
            key_end = all_keys
            if mask.causal:
                key_end = min(max(start + steps * count + mask.offset, 0), key_end)
            if key_end == 0:
                rows = steps * count * groups
                return jnp.zeros((rows, v.shape[1]), v.dtype), jnp.zeros(rows, v.dtype)
            if count == 1:
                return block(start, steps, key_end)
            starts = _block_starts(head, start, steps, count)
            out, log_total = lax.map(lambda i: block(i, steps, key_end), starts)
            return out.reshape(-1, out.shape[-1]), log_total.reshape(-1)

        segments = _segments(q.shape[0] // groups, sizes.queries, _max_segments(mask))
        parts = [segment(*part) for part in segments]
        out, log_totals = (jnp.concatenate(part) for part in zip(*parts, strict=True))
        return out.astype(operands[1].dtype), log_totals

    heads = jnp.arange(batch * mask.num_kv_heads, dtype=jnp.int32)
    folded = (_fold(a, mask.num_kv_heads) for a in (q, k, v))
    out, log_totals = lax.map(one_head, (heads, *folded))
    return _unfold(out, batch, num_heads), log_totals


def backward(
    args: tuple[jax.Array, jax.Array, jax.Array],
    residuals: tuple[jax.Array, jax.Array],
    ct: jax.Array,
    *,
    mask: AttentionMask,
    options: ScoreOptions,
    sizes: BlockSizes,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The cotangents of q, k and v, linear in ``ct``.

    With weights ``P = exp(scores - log_total)``::

        dV = P' dO
        dS = P * (dO V' - rowsum(O * dO))
        dQ = dS K,  dK = dS' Q

    All blocks are transposed, (keys, queries): the products for dK and dV then need no transposing.

    Args:
      args: q, k, v of ``forward``. residuals: what it gave. ct: (B, T, N, H).
      mask, options, sizes: as given to ``forward``.
    """
    q, k, v = args
    out, log_totals = residuals
    batch, all_steps, num_heads, _ = q.shape
    groups, num_kv_heads = mask.groups, mask.num_kv_heads

    # Nothing of a head is stored for another transformation: its blocks are computed again.
    @_rematerialized
    def one_head(operands: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        head, log_total = operands[:2]
        q, k, v, out, ct = map(_widen, operands[2:])
        q = q * np.array(options.scale, q.dtype)
        # One number for each row, for all of its blocks.
        out_ct = jnp.sum(out * ct, 1)

        def block(
            start: Index, size: int, first_step: int
        ) -> tuple[Index, tuple[jax.Array, jax.Array, jax.Array]]:
            """Keys ``start`` up to ``start + size``, and the queries from ``first_step`` on.

            Returns the index of the first row of queries, and the cotangents of these rows
            (transposed), of the keys and of the values.
            """
            first, steps = _query_range(mask, start, size, first_step, all_steps)
            row = first * groups
            keys, values = (lax.dynamic_slice_in_dim(a, start, size, 0) for a in (k, v))
            queries, ct_rows, log_total_rows, out_ct_rows = (
                lax.dynamic_slice_in_dim(a, row, steps * groups, 0)
                for a in (q, ct, log_total, out_ct)
            )
            capped = options.cap(_dot(keys, queries, 1, 1))
            scores = _masked(capped, mask, (head, first, steps, start, size), transposed=True)
            weights = lax.optimization_barrier(jnp.exp(scores - _as_row(log_total_rows, scores)))
            dweights = _dot(values, ct_rows, 1, 1)
            # The softmax's gradient; the sum over a row of P dP equals the sum of O dO, which is
            # cheaper: H terms in place of S (FlashAttention, section 3.1).
            dscores = weights * (dweights - _as_row(out_ct_rows, dweights))
            dscores = options.cap_vjp(dscores, capped)
            dvalues = _dot(weights, ct_rows, 1, 0)
            dkeys = _dot(dscores, queries, 1, 0)
            return row, (_dot(keys, dscores, 0, 0), dkeys, dvalues)

        def segment(start: int, size: int, count: int) -> tuple[jax.Array, ...]:
            """``count`` blocks of ``size`` keys each."""
            contiguous = mask.causal and mask.index_window is None
            first_step = max(start - mask.offset, 0) if contiguous else 0
            first_row = first_step * groups

            @_rematerialized
            def step(dq: jax.Array, start: Index) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
                row, (dqueries, dkeys, dvalues) = block(start, size, first_step)
                row = row - first_row
                rows = lax.dynamic_slice_in_dim(dq, row, dqueries.shape[1], 1)
                dq = lax.dynamic_update_slice_in_dim(dq, rows + dqueries, row, 1)
                return dq, (dkeys, dvalues)

            dq = jnp.zeros((q.shape[1], q.shape[0] - first_row), q.dtype)
            if count == 1:
                dq, (dk, dv) = step(dq, start)
            else:
                starts = _block_starts(head, start, size, count)
                dq, (dk, dv) = lax.scan(step, dq, starts)
                dk = dk.reshape(-1, k.shape[1])
                dv = dv.reshape(-1, v.shape[1])
            edges = ((0, 0, 0), (first_row, 0, 0))
            return lax.pad(dq, np.array(0, q.dtype), edges), dk, dv

        segments = _segments(k.shape[0], sizes.keys, _max_segments(mask))
        parts = [segment(*part) for part in segments]
        dqs, dks, dvs = zip(*parts, strict=True)
        dq = sum(dqs[1:], dqs[0]) * np.array(options.scale, q.dtype)
        gradients = (dq.T, jnp.concatenate(dks), jnp.concatenate(dvs))
        return tuple(g.astype(a.dtype) for g, a in zip(gradients, operands[2:], strict=False))

    heads = jnp.arange(batch * num_kv_heads, dtype=jnp.int32)
    folded = (_fold(a, num_kv_heads) for a in (q, k, v, out, ct))
    # Head by head, so that what a block leaves in the cache is used by the next one.
    dq, dk, dv = lax.map(one_head, (heads, log_totals, *folded))
    return (
        _unfold(dq, batch, num_heads),
        _unfold(dk, batch, num_kv_heads),
        _unfold(dv, batch, num_kv_heads),
    )


def _max_segments(mask: AttentionMask) -> int:
    # With a window, or without a causal mask, all blocks are alike: one loop.
    return _MAX_SEGMENTS if mask.causal and mask.index_window is None else 1


def _key_range(
    mask: AttentionMask, start: Index, steps: int, key_end: int, all_keys: int
) -> tuple[Index, int]:
    """(first, number) of the keys, up to ``key_end``, that a block of queries attends to."""
    if mask.index_window is None:
        return 0, key_end
    before, after = mask.index_window
    size = min(all_keys, steps + before + after)
    return jnp.clip(start + mask.offset - before, 0, all_keys - size), size


def _query_range(
    mask: AttentionMask, start: Index, size: int, first_step: int, all_steps: int
) -> tuple[Index, int]:
    """(first, number) of the queries, from ``first_step`` on, that attend to a block of keys."""
    if mask.index_window is None:
        return first_step, all_steps - first_step
    before, after = mask.index_window
    number = min(all_steps, size + before + after)
    return jnp.clip(start - (mask.offset + after), 0, all_steps - number), number


def _segments(size: int, block: int, max_segments: int) -> list[tuple[int, int, int]]:
    """(start, steps of a block, number of blocks) of at most ``max_segments`` parts, and a rest."""
    blocks, rest = divmod(size, block)
    # At least two blocks each, once there are loops: a loop of one iteration saves nothing.
    parts = blocks if blocks <= max_segments else min(blocks // 2, max_segments)
    ends = [blocks * i // parts for i in range(parts + 1)] if parts else [0]
    segments = [(a * block, block, b - a) for a, b in itertools.pairwise(ends)]
    return segments + ([(blocks * block, rest, 1)] if rest else [])


def _block_starts(head: jax.Array, start: int, steps: int, count: int) -> jax.Array:
    # `head` adds nothing, but makes the starts differ between heads as far as JAX knows. Otherwise
    # it would move what follows from them alone, the causal masks of all blocks, out of the loop
    # over heads, and store it: memory quadratic in the steps.
    return start + steps * jnp.arange(count, dtype=jnp.int32) + jnp.minimum(head, 0)


def _fold(x: jax.Array, num_kv_heads: int) -> jax.Array:
    """(B, T, N, H) to (B * K, T * N / K, H): the heads that share keys as neighbouring rows."""
    batch, steps, num_heads, head_dim = x.shape
    x = x.reshape(batch, steps, num_kv_heads, num_heads // num_kv_heads, head_dim)
    return x.transpose(0, 2, 1, 3, 4).reshape(batch * num_kv_heads, -1, head_dim)


def _unfold(x: jax.Array, batch: int, num_heads: int) -> jax.Array:
    """Back to (B, T, N, H)."""
    folded, rows, head_dim = x.shape
    groups = num_heads * batch // folded
    x = x.reshape(batch, folded // batch, rows // groups, groups, head_dim)
    return x.transpose(0, 2, 1, 3, 4).reshape(batch, rows // groups, num_heads, head_dim)


def _widen(x: jax.Array) -> jax.Array:
    return x.astype(at_least_float32(x.dtype))


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    return lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())))


def _masked(
    scores: jax.Array,
    mask: AttentionMask,
    where: tuple[jax.Array, Index, int, Index, int],
    transposed: bool = False,
) -> jax.Array:
    """A block of scores, (rows, keys) or ``transposed``, with bias added and keys masked."""
    visible, bias = mask.block(*where), mask.block_bias(*where, dtype=scores.dtype)
    if bias is not None:
        scores = scores + (bias.T if transposed else bias)
    if visible is None:
        return scores
    return jnp.where(visible.T if transposed else visible, scores, -jnp.inf)


def _as_row(x: jax.Array, like: jax.Array) -> jax.Array:
    return lax.broadcast_in_dim(x, like.shape, (1,))
