"""Scaled dot-product attention: the rule that chooses an algorithm, and the direct one.

How to read this file: ``attention`` checks its arguments, packs what hides or lowers scores into an
``AttentionMask`` (``mask.py``) and what becomes of the products into ``ScoreOptions``, and calls
one of three methods. ``_direct`` computes all scores at once. ``_blockwise`` wraps the two programs
of ``blockwise.py`` into one differentiable function. ``_cudnn`` calls NVIDIA's kernel.
docs/notes/0008-attention-and-norms.md has the measurements behind ``choose_attention``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..custom_gradient import with_custom_gradient
from ..dispatch import AlgorithmChoice, check_method, record_choice, traced_once
from ..dtypes import at_least_float32, is_sharded, is_symbolic
from . import blockwise
from .blockwise import BlockSizes, ScoreOptions
from .mask import AttentionMask

F = TypeVar("F", bound=Callable[..., object])
Residuals = tuple[jax.Array, jax.Array]  # the output, and the log of each row's denominator

# Scores of one head below which an iteration of the loop over heads costs more than it saves: at
# 64 x 64 blocks were slower (forward 0.94x, gradient 0.92x).
_MIN_SCORES = 96 * 96
# Rows of scores below which laying out the keys for the loop costs more than the scores: decoding.
_MIN_ROWS = 4


@traced_once("causal", "window", "alibi", "soft_cap", "scale", "method")
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

    Scores and softmax are computed in float32 at least. A query that attends to no key at all gives
    zeros, and so do its gradients. Masked values are multiplied by zero, and must be finite.

    Args:
      q: (batch, T, num_heads, head_dim).
      k, v: (batch, S, num_kv_heads, head_dim), of the dtype of ``q``; ``num_heads`` is a multiple
        of ``num_kv_heads``, and neighbouring heads share their keys (grouped-query attention,
        Ainslie et al., 2023, arXiv:2305.13245).
      causal: the queries are the last T of the S steps, and none attends to a later step: query t
        attends to the keys up to t + S - T.
      window: to how many positions a causal query attends, its own included; all if None.
      mask: bools, broadcastable to (batch, num_heads, T, S); True where a query attends to a key.
      bias: added to the scores, broadcastable to (batch, num_heads, T, S).
      alibi: whether the scores of head i fall by ``2 ** (-8 i / num_heads)`` with each position
        between query and key (Press et al., 2022, arXiv:2108.12409).
      positions: those of the queries, int32 (batch, T), and of the keys, (batch, S), which
        ``window`` and ``alibi`` compare; t + S - T and s if None.
      soft_cap: scores become ``soft_cap * tanh(scores / soft_cap)``, before any bias.
      scale: of the scores; 1 / sqrt(head_dim) if None.
      method: ``"direct"`` (all scores at once), ``"blocks"`` (some rows at a time, in memory that
        grows with T and not with its square), ``"cudnn"`` (NVIDIA's kernel for the narrower
        floats, in reverse mode alone); by default what ``choose_attention`` says.

    Returns:
      (batch, T, num_heads, head_dim), of the dtype of ``q``.

    Raises:
      ValueError: for a method that cannot compute this attention, and a window that is not causal.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> q = k = jnp.zeros((1, 2, 1, 1))
    >>> v = jnp.array([1.0, 3.0]).reshape(1, 2, 1, 1)
    >>> jl.core.attention(q, k, v).ravel().tolist()
    [2.0, 2.0]
    >>> jl.core.attention(q, k, v, causal=True).ravel().tolist()
    [1.0, 2.0]
    """
    steps, num_heads, head_dim = q.shape[1:]
    keys, num_kv_heads = k.shape[1:3]
    if window is not None and not causal:
        raise ValueError("attention with a window has to be causal")
    if mask is not None:
        mask = _four_axes(mask)
    attention_mask = AttentionMask(
        mask,
        positions,
        causal,
        window,
        alibi,
        offset=keys - steps,
        groups=num_heads // num_kv_heads,
        num_kv_heads=num_kv_heads,
    )
    options = ScoreOptions(max(head_dim, 1) ** -0.5 if scale is None else scale, soft_cap)
    check_method(method, _possible_methods(q, keys, attention_mask, options, bias), "attention")
    cpu, default = (
        choose_attention(q.shape, k.shape, platform, has_bias=bias is not None)
        for platform in ("cpu", "gpu")
    )
    if is_sharded(q) or is_sharded(k):
        cpu = AlgorithmChoice("direct", "sharded over devices: XLA's own products")
    record_choice("attention", cpu, default, method)
    # An empty softmax is NaN, and a loop over no blocks has no output.
    if keys == 0 or q.size == 0:
        return jnp.zeros_like(q)
    if method == "cudnn":
        return _cudnn(q, k, v, attention_mask, options, bias)
    # An accelerator stores the scores rather than recompute them, and has no use for the custom
    # gradient. So the backend of this process decides whether there is one, and `_by_platform`
    # inside it still decides correctly for a program that is lowered for another platform.
    here = cpu if jax.default_backend() == "cpu" else default
    if (method or here.method) == "direct":
        return _direct(q, k, v, attention_mask, options, bias)
    arrays = (mask, *(positions or (None, None)))
    present = (mask is not None, positions is not None)
    # Without its arrays, the mask is hashable: the function is made once for each set of options.
    static_mask = attention_mask._replace(mask=None, positions=None)
    run = _blockwise(static_mask, present, options, method is None)
    return run(q, k, v, *(a for a in arrays if a is not None))


def choose_attention(
    q: Sequence[int], k: Sequence[int], platform: str, has_bias: bool = False
) -> AlgorithmChoice:
    """The algorithm, with the reason.

    Args:
      q: the shape (batch, T, num_heads, head_dim).
      k: the shape (batch, S, num_kv_heads, head_dim).
      platform: ``"cpu"``, ``"gpu"`` or ``"tpu"``.
      has_bias: whether there is a bias for every score.
    """
    if has_bias:
        return AlgorithmChoice("direct", "a bias of every score is there already")
    if platform != "cpu":
        return AlgorithmChoice("direct", "XLA's own fusions on accelerators")
    if 0 in q or 0 in k:
        return AlgorithmChoice("direct", "nothing to compute")
    if is_symbolic(*q, *k):
        return AlgorithmChoice("direct", "sizes that are not known yet")
    rows, keys = q[1] * q[2] // k[2], k[1]
    if rows < _MIN_ROWS:
        return AlgorithmChoice("direct", f"{rows} rows of scores of a head: each is soon done")
    if rows * keys < _MIN_SCORES:
        return AlgorithmChoice("direct", f"{rows} x {keys} scores of a head: too few for blocks")
    return AlgorithmChoice("blocks", "a block of scores stays in the cache, and none is stored")


def _possible_methods(
    q: jax.Array,
    keys: int,
    mask: AttentionMask,
    options: ScoreOptions,
    bias: jax.Array | None,
) -> list[str]:
    """The methods that can compute this attention."""
    # What the cuDNN kernel supports, as jax.nn.dot_product_attention documents it.
    half_precision = jnp.dtype(q.dtype).itemsize == 2
    square = not mask.causal or mask.offset == 0
    head_dim_fits = q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    plain = options.soft_cap is None and not mask.alibi and mask.positions is None
    cudnn = half_precision and square and head_dim_fits and plain
    blocks = bias is None and not is_symbolic(q.shape[1], keys)  # they are counted
    return ["direct"] + ["blocks"] * blocks + ["cudnn"] * cudnn


def _cudnn(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask,
    options: ScoreOptions,
    bias: jax.Array | None,
) -> jax.Array:
    steps, keys = q.shape[1], k.shape[1]

    def broadcast(x: jax.Array | None) -> jax.Array | None:
        """With full last two axes, as the kernel wants them."""
        if x is None:
            return None
        x = _four_axes(x)
        return jnp.broadcast_to(x, (*x.shape[:2], steps, keys))

    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        bias=broadcast(None if bias is None else bias.astype(q.dtype)),
        mask=broadcast(mask.mask),
        is_causal=mask.causal,
        local_window_size=None if mask.window is None else (mask.window - 1, 0),
        scale=options.scale,
        implementation="cudnn",
    )
    return out if mask.mask is None else _zero_empty(out, mask.full(steps, keys))


def attend_to_cached(
    q: jax.Array,
    k: Sequence[jax.Array],
    v: Sequence[jax.Array],
    *,
    mask: jax.Array,
    positions: tuple[jax.Array, jax.Array],
    alibi: bool,
    soft_cap: float | None,
    scale: float | None,
) -> jax.Array:
    """``attention`` to keys and values as a cache has them, all scores at once.

    They may be in several arrays, which are not joined.

    Args:
      q: (batch, T, num_heads, head_dim).
      k, v: (batch, num_kv_heads, S_i, head_dim) each; S below is the sum of the S_i.
      mask, positions, alibi, soft_cap, scale: as for ``attention``.
    """
    batch, steps, num_heads, head_dim = q.shape
    num_kv_heads, groups = k[0].shape[1], num_heads // k[0].shape[1]
    keys = sum(part.shape[2] for part in k)
    visible = AttentionMask(mask, positions, False, None, alibi, 0, groups, num_kv_heads)
    options = ScoreOptions(max(head_dim, 1) ** -0.5 if scale is None else scale, soft_cap)
    # Three axes, in the order of the products: of four, XLA for CPU may choose another layout for
    # the cache, which it then copies (docs/notes/0015-decoding.md).
    folded = (batch * num_kv_heads, groups * steps)
    rows = q.reshape(batch, steps, num_kv_heads, groups, head_dim)
    rows = rows.transpose(0, 2, 3, 1, 4).reshape(*folded, head_dim)
    k, v = ([part.reshape(folded[0], *part.shape[2:]) for part in parts] for parts in (k, v))
    wide = at_least_float32(q.dtype)
    products = [jnp.einsum("nth,nsh->nts", rows, part, preferred_element_type=wide) for part in k]
    scores = products[0] if len(k) == 1 else jnp.concatenate(products, -1)
    shape = (batch, num_heads, steps, keys)
    scores = _masked_scores(scores.reshape(shape), visible, options)
    weights = jax.nn.softmax(scores).astype(q.dtype).reshape(*folded, keys)
    ends = np.cumsum([part.shape[1] for part in v])[:-1]
    split = [weights] if len(v) == 1 else jnp.split(weights, ends, -1)
    outs = [jnp.einsum("nts,nsh->nth", w, part) for w, part in zip(split, v, strict=True)]
    out = functools.reduce(jnp.add, outs).reshape(batch, num_kv_heads, groups, steps, head_dim)
    return _zero_empty(out.transpose(0, 3, 1, 2, 4).reshape(q.shape), visible.full(steps, keys))


def _direct(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask,
    options: ScoreOptions,
    bias: jax.Array | None = None,
) -> jax.Array:
    batch, steps, num_heads, head_dim = q.shape
    keys = k.shape[1]
    wide = at_least_float32(q.dtype)
    grouped = q.reshape(batch, steps, mask.num_kv_heads, mask.groups, head_dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=wide)
    grouped_shape, shape = scores.shape, (batch, num_heads, steps, keys)
    scores = _masked_scores(scores.reshape(shape), mask, options, bias)
    weights = jax.nn.softmax(scores.reshape(grouped_shape)).astype(q.dtype)
    out = jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(q.shape)
    return _zero_empty(out, mask.full(steps, keys)) if mask.may_be_empty else out


def _masked_scores(
    products: jax.Array,
    mask: AttentionMask,
    options: ScoreOptions,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Scores of products of queries and keys, (batch, num_heads, T, S)."""
    shape, wide = products.shape, products.dtype
    steps, keys = shape[2:]
    scores = options.cap(products * options.scale)
    for term in (bias, mask.full_bias(steps, keys, wide)):
        if term is not None:
            scores = scores + jnp.broadcast_to(_four_axes(term).astype(wide), shape)
    visible = mask.full(steps, keys)
    if visible is None:
        return scores
    # Not minus infinity: the softmax of a row of them is NaN, and so is its gradient.
    lowest = np.array(0.5 * float(jnp.finfo(wide).min), wide)  # type: ignore[no-untyped-call]
    return jnp.where(jnp.broadcast_to(visible, shape), scores, lowest)


def _zero_empty(out: jax.Array, visible: jax.Array | None) -> jax.Array:
    """Zeros for the queries that attend to no key."""
    assert visible is not None
    nonempty = jnp.any(visible, -1).swapaxes(1, 2)[..., None]
    return jnp.where(jnp.broadcast_to(nonempty, out.shape), out, jnp.zeros_like(out))


def _four_axes(x: jax.Array) -> jax.Array:
    return x.reshape((1,) * (4 - x.ndim) + x.shape)


def _block_sizes(q: Sequence[int], k: Sequence[int], causal: bool) -> BlockSizes:
    """Steps of a block: few enough for the cache and the diagonal, enough for the product.

    Blocks of 64 to 512 rows were equal at 512 steps; 128 wastes less above a causal diagonal.
    """
    groups = q[2] // k[2]
    # Heads that share keys are rows of one block, so it has fewer steps; at least 16, or the
    # product would be too narrow.
    return BlockSizes(max((128 if causal else 256) // groups, 16), 256)


@functools.cache
def _blockwise(
    static_mask: AttentionMask,
    present: tuple[bool, bool],
    options: ScoreOptions,
    by_platform: bool,
) -> Callable[..., jax.Array]:
    """The function of q, k, v, and then of the mask and the two positions, where present.

    Args:
      static_mask: the mask without its arrays.
      present: whether there is a mask, and whether there are positions.
      options: how scores are made.
      by_platform: whether other platforms than CPU take the direct method.
    """

    def with_arrays(args: Sequence[jax.Array]) -> tuple[AttentionMask, BlockSizes]:
        """The mask with its arrays again, and the block sizes."""
        sizes = _block_sizes(args[0].shape, args[1].shape, static_mask.causal)
        has_mask, has_positions = present
        # In the order of `arrays` in `attention`: mask, then both positions.
        mask = args[3] if has_mask else None
        positions = (args[-2], args[-1]) if has_positions else None
        return static_mask._replace(mask=mask, positions=positions), sizes

    def forward(*args: jax.Array) -> tuple[jax.Array, Residuals]:
        def blocks(*args: jax.Array) -> Residuals:
            mask, sizes = with_arrays(args)
            return blockwise.forward(*args[:3], mask=mask, options=options, sizes=sizes)

        def direct(*args: jax.Array) -> Residuals:
            q, k, v = args[:3]
            # Both branches must return the same types; the direct gradient does not use this one.
            shape = (k.shape[0] * static_mask.num_kv_heads, q.shape[1] * static_mask.groups)
            unused = jnp.zeros_like(q, at_least_float32(q.dtype), shape=shape)
            return _direct(q, k, v, with_arrays(args)[0], options), unused

        out, log_denominator = _by_platform(blocks, direct, by_platform)(*args)
        return out, (out, log_denominator)

    def backward(
        args: tuple[jax.Array, ...], residuals: Residuals, ct: jax.Array
    ) -> tuple[jax.Array | None, ...]:
        # Rematerialised, so that a second derivative stores nothing of the loops inside.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def blocks(
            args: tuple[jax.Array, ...], residuals: Residuals, ct: jax.Array
        ) -> tuple[jax.Array, ...]:
            mask, sizes = with_arrays(args)
            q, k, v = args[:3]
            return blockwise.backward(
                (q, k, v), residuals, ct, mask=mask, options=options, sizes=sizes
            )

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def direct(
            args: tuple[jax.Array, ...], residuals: Residuals, ct: jax.Array
        ) -> tuple[jax.Array, ...]:
            mask, _ = with_arrays(args)
            _, vjp = jax.vjp(lambda q, k, v: _direct(q, k, v, mask, options), *args[:3])
            gradients: tuple[jax.Array, ...] = vjp(ct)
            return gradients

        gradients = _by_platform(blocks, direct, by_platform)(args, residuals, ct)
        # Masks and positions are bools and ints: they have no gradient.
        return (*gradients, *(None for _ in args[3:]))

    return with_custom_gradient(forward, backward)


def _by_platform(cpu: F, default: F, by_platform: bool) -> F:
    if not by_platform:
        return cpu
    return lambda *args: lax.platform_dependent(*args, cpu=cpu, default=default)  # type: ignore[return-value]
