"""Scaled dot-product attention: the rule that chooses an algorithm, and the plain one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import attention_blocks
from .attention_blocks import Blocks
from .attention_mask import Sight
from .choice import Choice, check_method, record
from .derive import with_gradient
from .dtypes import at_least_float32


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    causal: bool = False,
    mask: jax.Array | None = None,
    scale: float | None = None,
    method: str | None = None,
) -> jax.Array:
    """``softmax(scale q k') v`` for each head (Vaswani et al., 2017, arXiv:1706.03762).

    Scores and softmax are computed in float32 at least. A query that sees no key at all gives
    zeros, and so do its gradients.

    Args:
      q: (batch, T, heads, size).
      k, v: (batch, S, kv_heads, size), of the dtype of ``q``; ``heads`` a multiple of ``kv_heads``.
        Neighbouring heads share their keys (Ainslie et al., 2023, arXiv:2305.13245).
      causal: the queries are the last T of the S steps, and none sees a later step: query t sees
        the keys up to t + S - T.
      mask: bools, broadcastable to (batch, heads, T, S); True where a query sees a key.
      scale: of the scores; 1 / sqrt(size) if None.
      method: ``"direct"`` (all scores at once), ``"blocks"`` (some rows at a time, in memory that
        grows with T and not with its square), ``"cudnn"`` (NVIDIA's kernel for the narrower
        floats, in reverse mode alone); by default what ``choose_attention`` says.

    Returns:
      (batch, T, heads, size), of the dtype of ``q``.

    Raises:
      ValueError: for a method that cannot compute this attention.
    """
    steps, heads, size = q.shape[1:]
    keys, kv_heads = k.shape[1:3]
    check_method(method, _possible(q, k, causal, mask), "attention")
    on_cpu, elsewhere = (choose_attention(q.shape, k.shape, p) for p in ("cpu", "gpu"))
    record("attention", on_cpu, elsewhere, method)
    if keys == 0 or q.size == 0:
        return jnp.zeros_like(q)
    scale = size**-0.5 if scale is None else scale
    if method == "cudnn":
        return jax.nn.dot_product_attention(
            q, k, v, is_causal=causal, scale=scale, implementation="cudnn"
        )
    if mask is not None:
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    sight = Sight(mask, causal, keys - steps, heads // kv_heads, kv_heads)
    # An accelerator keeps the scores rather than recompute them, and has no use for the rule.
    here = on_cpu if jax.default_backend() == "cpu" else elsewhere
    if (method or here.method) == "direct":
        return _direct(q, k, v, sight, scale)
    run = _blockwise(sight._replace(mask=None), mask is not None, scale, method is None)
    return run(q, k, v) if mask is None else run(q, k, v, mask)  # type: ignore[no-any-return]


def choose_attention(q: Sequence[int], k: Sequence[int], platform: str) -> Choice:
    """The algorithm for ``q`` (batch, T, heads, size) and ``k`` (batch, S, kv_heads, size)."""
    if platform != "cpu":
        return Choice("direct", "XLA's own fusions on accelerators")
    if 0 in q or 0 in k:
        return Choice("direct", "nothing to compute")
    rows, keys = q[1] * q[2] // k[2], k[1]
    if rows * keys < _FEW_SCORES:
        return Choice("direct", f"{rows} x {keys} scores of a head: too few for blocks")
    return Choice("blocks", "a block of scores stays in the cache, and none is stored")


# Scores of one head below which a turn of the loop over heads costs more than it saves.
_FEW_SCORES = 96 * 96


def _possible(q: jax.Array, k: jax.Array, causal: bool, mask: jax.Array | None) -> list[str]:
    """The methods that can compute this attention."""
    half = jnp.dtype(q.dtype).itemsize == 2
    square = not causal or q.shape[1] == k.shape[1]
    sizes = q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    return ["direct", "blocks"] + ["cudnn"] * (half and square and sizes and mask is None)


def _direct(q: jax.Array, k: jax.Array, v: jax.Array, sight: Sight, scale: float) -> jax.Array:
    batch, steps, heads, size = q.shape
    keys = k.shape[1]
    visible = sight.whole(steps, keys)
    wide = at_least_float32(q.dtype)
    grouped = q.reshape(batch, steps, sight.kv_heads, sight.groups, size)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=wide) * scale
    if visible is not None:
        # Not minus infinity, whose softmax is NaN where nothing is seen.
        lowest = np.array(0.5 * float(jnp.finfo(wide).min), wide)  # type: ignore[no-untyped-call]
        heads_first = scores.reshape(batch, heads, steps, keys)
        hidden = jnp.where(jnp.broadcast_to(visible, heads_first.shape), heads_first, lowest)
        scores = hidden.reshape(scores.shape)
    weights = jax.nn.softmax(scores).astype(q.dtype)
    out = jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(q.shape)
    if visible is None or not sight.of_none:
        return out
    some = jnp.any(visible, -1).swapaxes(1, 2)[..., None]
    return jnp.where(jnp.broadcast_to(some, out.shape), out, jnp.zeros_like(out))


def _blocks(q: Sequence[int], k: Sequence[int], causal: bool) -> Blocks:
    """Steps of a block: few enough for the cache and the diagonal, enough for the product."""
    groups = q[2] // k[2]
    return Blocks(max((128 if causal else 256) // groups, 16), 256)


@functools.cache
def _blockwise(sight: Sight, masked: bool, scale: float, elsewhere: bool) -> Callable[..., Any]:
    """The function of q, k, v and, if ``masked``, of the mask that ``sight`` then lacks."""

    def seen_by(args: Sequence[jax.Array]) -> tuple[Sight, Blocks]:
        blocks = _blocks(args[0].shape, args[1].shape, sight.causal)
        return sight._replace(mask=args[3] if masked else None), blocks

    def forward(*args: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        def blockwise(*args: jax.Array) -> tuple[jax.Array, jax.Array]:
            seen, blocks = seen_by(args)
            return attention_blocks.forward(*args[:3], sight=seen, scale=scale, blocks=blocks)

        def direct(*args: jax.Array) -> tuple[jax.Array, jax.Array]:
            q, k, v = args[:3]
            shape = (k.shape[0] * sight.kv_heads, q.shape[1] * sight.groups)
            unused = jnp.zeros(shape, at_least_float32(q.dtype))
            return _direct(q, k, v, seen_by(args)[0], scale), unused

        out, totals = _where_it_runs(blockwise, direct, elsewhere)(*args)
        return out, (out, totals)

    def backward(args: Any, residuals: Any, ct: jax.Array) -> Any:
        def blockwise(args: Any, residuals: Any, ct: jax.Array) -> Any:
            seen, blocks = seen_by(args)
            return attention_blocks.backward(
                args[:3], residuals, ct, sight=seen, scale=scale, blocks=blocks
            )

        def direct(args: Any, residuals: Any, ct: jax.Array) -> Any:
            seen, _ = seen_by(args)
            return jax.vjp(lambda q, k, v: _direct(q, k, v, seen, scale), *args[:3])[1](ct)

        ours, theirs = (jax.checkpoint(f, prevent_cse=False) for f in (blockwise, direct))
        # The mask has no gradient, and nobody asks for it.
        return (*_where_it_runs(ours, theirs, elsewhere)(args, residuals, ct), None)

    return with_gradient(forward, backward)


def _where_it_runs(cpu: Any, default: Any, elsewhere: bool) -> Any:
    if not elsewhere:
        return cpu
    return lambda *args: lax.platform_dependent(*args, cpu=cpu, default=default)
