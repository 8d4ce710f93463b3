"""Scaled dot-product attention: the rule that chooses an algorithm, and the plain one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..custom_gradient import with_gradient
from ..dispatch import Choice, check_method, record
from ..dtypes import at_least_float32
from . import blockwise as attention_blocks
from .blockwise import Blocks, Scores
from .mask import Sight


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    causal: bool = False,
    window: int | None = None,
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
    alibi: bool = False,
    positions: tuple[jax.Array, jax.Array] | None = None,
    soft_cap: float | None = None,
    scale: float | None = None,
    method: str | None = None,
) -> jax.Array:
    """``softmax(scale q k' + bias) v`` for each head (Vaswani et al., 2017, arXiv:1706.03762).

    Scores and softmax are computed in float32 at least. A query that sees no key at all gives
    zeros, and so do its gradients. What is hidden is multiplied by zero, and must be finite.

    Args:
      q: (batch, T, heads, size).
      k, v: (batch, S, kv_heads, size), of the dtype of ``q``; ``heads`` a multiple of ``kv_heads``.
        Neighbouring heads share their keys (Ainslie et al., 2023, arXiv:2305.13245).
      causal: the queries are the last T of the S steps, and none sees a later step: query t sees
        the keys up to t + S - T.
      window: how many positions a causal query sees, its own included; all if None.
      mask: bools, broadcastable to (batch, heads, T, S); True where a query sees a key.
      bias: added to the scores, broadcastable to (batch, heads, T, S).
      alibi: whether the scores of head i fall by ``2 ** (-8 i / heads)`` with each position between
        query and key (Press et al., 2022, arXiv:2108.12409).
      positions: those of the queries, int32 (batch, T), and of the keys, (batch, S), which
        ``window`` and ``alibi`` go by; t + S - T and s if None.
      soft_cap: scores become ``soft_cap * tanh(scores / soft_cap)``, before any bias.
      scale: of the scores; 1 / sqrt(size) if None.
      method: ``"direct"`` (all scores at once), ``"blocks"`` (some rows at a time, in memory that
        grows with T and not with its square), ``"cudnn"`` (NVIDIA's kernel for the narrower
        floats, in reverse mode alone); by default what ``choose_attention`` says.

    Returns:
      (batch, T, heads, size), of the dtype of ``q``.

    Raises:
      ValueError: for a method that cannot compute this attention, and a window that is not causal.
    """
    steps, heads, size = q.shape[1:]
    keys, kv_heads = k.shape[1:3]
    if window is not None and not causal:
        raise ValueError("attention with a window has to be causal")
    if mask is not None:
        mask = _four_axes(mask)
    sight = Sight(mask, positions, causal, window, alibi, keys - steps, heads // kv_heads, kv_heads)
    scores = Scores(max(size, 1) ** -0.5 if scale is None else scale, soft_cap)
    check_method(method, _possible(q, sight, scores, bias), "attention")
    on_cpu, elsewhere = (
        choose_attention(q.shape, k.shape, platform, biased=bias is not None)
        for platform in ("cpu", "gpu")
    )
    record("attention", on_cpu, elsewhere, method)
    if keys == 0 or q.size == 0:
        return jnp.zeros_like(q)
    if method == "cudnn":
        return _cudnn(q, k, v, sight, scores, bias)
    # An accelerator keeps the scores rather than recompute them, and has no use for the rule.
    here = on_cpu if jax.default_backend() == "cpu" else elsewhere
    if (method or here.method) == "direct":
        return _direct(q, k, v, sight, scores, bias)
    arrays = (mask, *(positions or (None, None)))
    given = tuple(a is not None for a in arrays)
    bare = sight._replace(mask=None, positions=None)
    run = _blockwise(bare, given, scores, method is None)
    return run(q, k, v, *(a for a in arrays if a is not None))  # type: ignore[no-any-return]


def choose_attention(
    q: Sequence[int], k: Sequence[int], platform: str, biased: bool = False
) -> Choice:
    """The algorithm for ``q`` (batch, T, heads, size) and ``k`` (batch, S, kv_heads, size)."""
    if biased:
        return Choice("direct", "a bias of every score is there already")
    if platform != "cpu":
        return Choice("direct", "XLA's own fusions on accelerators")
    if 0 in q or 0 in k:
        return Choice("direct", "nothing to compute")
    rows, keys = q[1] * q[2] // k[2], k[1]
    if rows < _FEW_ROWS:
        return Choice("direct", f"{rows} rows of scores of a head: each is soon done")
    if rows * keys < _FEW_SCORES:
        return Choice("direct", f"{rows} x {keys} scores of a head: too few for blocks")
    return Choice("blocks", "a block of scores stays in the cache, and none is stored")


# Scores of one head below which a turn of the loop over heads costs more than it saves.
_FEW_SCORES = 96 * 96
# Rows of them below which laying out the keys for the loop costs more than the scores.
_FEW_ROWS = 4


def _possible(q: jax.Array, sight: Sight, scores: Scores, bias: jax.Array | None) -> list[str]:
    """The methods that can compute this attention."""
    half = jnp.dtype(q.dtype).itemsize == 2
    square = not sight.causal or sight.offset == 0
    sizes = q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    plain = scores.cap is None and not sight.alibi and sight.positions is None
    cudnn = half and square and sizes and plain
    return ["direct"] + ["blocks"] * (bias is None) + ["cudnn"] * cudnn


def _cudnn(
    q: jax.Array, k: jax.Array, v: jax.Array, sight: Sight, scores: Scores, bias: Any
) -> jax.Array:
    steps, keys = q.shape[1], k.shape[1]

    def spread(x: jax.Array | None) -> jax.Array | None:
        """With the last two axes whole, as the kernel wants them."""
        if x is None:
            return None
        x = _four_axes(x)
        return jnp.broadcast_to(x, (*x.shape[:2], steps, keys))

    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        bias=spread(None if bias is None else bias.astype(q.dtype)),
        mask=spread(sight.mask),
        is_causal=sight.causal,
        local_window_size=None if sight.window is None else (sight.window - 1, 0),
        scale=scores.scale,
        implementation="cudnn",
    )
    return out if sight.mask is None else _where_some(out, sight.whole(steps, keys))


def _direct(
    q: jax.Array, k: jax.Array, v: jax.Array, sight: Sight, scores: Scores, bias: Any = None
) -> jax.Array:
    batch, steps, heads, size = q.shape
    keys = k.shape[1]
    visible = sight.whole(steps, keys)
    wide = at_least_float32(q.dtype)
    grouped = q.reshape(batch, steps, sight.kv_heads, sight.groups, size)
    made = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=wide) * scores.scale
    grouped_shape, shape = made.shape, (batch, heads, steps, keys)
    made = scores.capped(made).reshape(shape)
    falling = sight.whole_bias(steps, keys, wide)
    for more in (bias, falling):
        if more is not None:
            made = made + jnp.broadcast_to(_four_axes(more).astype(wide), shape)
    if visible is not None:
        # Not minus infinity, whose softmax is NaN where nothing is seen.
        lowest = np.array(0.5 * float(jnp.finfo(wide).min), wide)  # type: ignore[no-untyped-call]
        made = jnp.where(jnp.broadcast_to(visible, shape), made, lowest)
    weights = jax.nn.softmax(made.reshape(grouped_shape)).astype(q.dtype)
    out = jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(q.shape)
    return _where_some(out, visible) if sight.of_none else out


def _where_some(out: jax.Array, visible: jax.Array | None) -> jax.Array:
    """Zeros for the queries that see no key."""
    assert visible is not None
    some = jnp.any(visible, -1).swapaxes(1, 2)[..., None]
    return jnp.where(jnp.broadcast_to(some, out.shape), out, jnp.zeros_like(out))


def _four_axes(x: jax.Array) -> jax.Array:
    return x.reshape((1,) * (4 - x.ndim) + x.shape)


def _blocks(q: Sequence[int], k: Sequence[int], causal: bool) -> Blocks:
    """Steps of a block: few enough for the cache and the diagonal, enough for the product."""
    groups = q[2] // k[2]
    return Blocks(max((128 if causal else 256) // groups, 16), 256)


@functools.cache
def _blockwise(
    sight: Sight, given: tuple[bool, bool, bool], scores: Scores, elsewhere: bool
) -> Callable[..., Any]:
    """The function of q, k, v and the ``given`` of mask and positions, which ``sight`` lacks."""

    def seen_by(args: Sequence[jax.Array]) -> tuple[Sight, Blocks]:
        blocks = _blocks(args[0].shape, args[1].shape, sight.causal)
        rest = iter(args[3:])
        mask, *places = (next(rest) if here else None for here in given)
        positions = (places[0], places[1]) if given[1] else None
        return sight._replace(mask=mask, positions=positions), blocks  # type: ignore[arg-type]

    def forward(*args: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        def blockwise(*args: jax.Array) -> tuple[jax.Array, jax.Array]:
            seen, blocks = seen_by(args)
            return attention_blocks.forward(*args[:3], sight=seen, scores=scores, blocks=blocks)

        def direct(*args: jax.Array) -> tuple[jax.Array, jax.Array]:
            q, k, v = args[:3]
            shape = (k.shape[0] * sight.kv_heads, q.shape[1] * sight.groups)
            unused = jnp.zeros(shape, at_least_float32(q.dtype))
            return _direct(q, k, v, seen_by(args)[0], scores), unused

        out, totals = _where_it_runs(blockwise, direct, elsewhere)(*args)
        return out, (out, totals)

    def backward(args: Any, residuals: Any, ct: jax.Array) -> Any:
        def blockwise(args: Any, residuals: Any, ct: jax.Array) -> Any:
            seen, blocks = seen_by(args)
            return attention_blocks.backward(
                args[:3], residuals, ct, sight=seen, scores=scores, blocks=blocks
            )

        def direct(args: Any, residuals: Any, ct: jax.Array) -> Any:
            seen, _ = seen_by(args)
            return jax.vjp(lambda q, k, v: _direct(q, k, v, seen, scores), *args[:3])[1](ct)

        ours, theirs = (jax.checkpoint(f, prevent_cse=False) for f in (blockwise, direct))
        # Masks and positions have no gradient, and nobody asks for one.
        gradients = _where_it_runs(ours, theirs, elsewhere)(args, residuals, ct)
        return (*gradients, *(None for here in given if here))

    return with_gradient(forward, backward)


def _where_it_runs(cpu: Any, default: Any, elsewhere: bool) -> Any:
    if not elsewhere:
        return cpu
    return lambda *args: lax.platform_dependent(*args, cpu=cpu, default=default)
