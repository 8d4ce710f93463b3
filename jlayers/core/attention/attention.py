"""Scaled dot-product attention: the rule that chooses an algorithm.

How to read this file: ``attention`` checks its arguments, packs what hides or lowers scores into an
``AttentionMask`` (``mask.py``), what becomes of the products into ``ScoreOptions`` and what needs
all scores into ``ScoreTerms``, and calls one of three methods. ``direct`` (``direct.py``) computes
all scores at once. ``_blockwise`` wraps the two programs of ``blockwise.py`` into one
differentiable function. ``_cudnn`` calls NVIDIA's kernel.
docs/notes/0008-attention-and-norms.md has the measurements behind ``choose_attention``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from ..custom_gradient import with_custom_gradient
from ..dispatch import AlgorithmChoice, check_method, record_choice, traced_once
from ..dtypes import at_least_float32, has_sharded_type, is_sharded, is_symbolic, sharded_as
from . import blockwise
from .blockwise import BlockSizes, ScoreOptions
from .direct import ScoreTerms, four_axes, shown_by_bias, with_weights, zero_empty
from .direct import direct as all_at_once
from .mask import AttentionMask, Pattern
from .relative import RelativeTables

F = TypeVar("F", bound=Callable[..., object])
Residuals = tuple[jax.Array, jax.Array]  # the output, and the log of each row's denominator

# Scores of one head below which an iteration of the loop over heads costs more than it saves: at
# 64 x 64 blocks were slower (forward 0.94x, gradient 0.92x).
_MIN_SCORES = 96 * 96
# Rows of scores below which laying out the keys for the loop costs more than the scores: decoding.
_MIN_ROWS = 4


@traced_once("causal", "window", "pattern", "alibi", "soft_cap", "scale", "dropout_rate", "method")
def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    causal: bool = False,
    window: int | tuple[int, int] | None = None,
    pattern: Pattern | None = None,
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
    alibi: bool | tuple[float, ...] = False,
    relative: RelativeTables | None = None,
    positions: tuple[jax.Array, jax.Array] | None = None,
    soft_cap: float | None = None,
    scale: float | None = None,
    sinks: jax.Array | None = None,
    dropout_rate: float = 0.0,
    key: jax.Array | None = None,
    method: str | None = None,
) -> jax.Array:
    """``softmax(scale q k' + bias) v`` for each head (Vaswani et al., 2017, arXiv:1706.03762).

    Scores and softmax are computed in float32 at least. A query that attends to no key at all gives
    zeros, and so do its gradients. Masked values are multiplied by zero, and must be finite.

    Args:
      q: (batch, T, num_heads, head_dim).
      k: (batch, S, num_kv_heads, head_dim), of the dtype of ``q``; ``num_heads`` is a multiple
        of ``num_kv_heads``, and neighbouring heads share their keys (grouped-query attention,
        Ainslie et al., 2023, arXiv:2305.13245).
      v: (batch, S, num_kv_heads, value_dim), of the dtype of ``q``.
      causal: the queries are the last T of the S steps, and none attends to a later step: query t
        attends to the keys up to t + S - T.
      window: to how many positions a causal query attends, its own included; for others, how many
        positions (before, after) its own; all if None.
      pattern: a function of positions of queries and keys, int32 arrays of one shape, to bools:
        True where a query attends to a key. It is computed where it is needed, and not stored.
      mask: bools, broadcastable to (batch, num_heads, T, S); True where a query attends to a key.
      bias: added to the scores, broadcastable to (batch, num_heads, T, S); a query does not attend
        to a key at minus infinity.
      alibi: whether the scores of head i fall by ``2 ** (-8 i / num_heads)`` with each position
        between query and key (Press et al., 2022, arXiv:2108.12409); or by how much, for each head.
      relative: tables of rows by distance, added to scores, keys and values.
      positions: those of the queries, int32 (batch, T), and of the keys, (batch, S), which
        ``window``, ``pattern``, ``alibi`` and ``relative`` compare; t + S - T and s if None.
      soft_cap: scores become ``soft_cap * tanh(scores / soft_cap)``, before any bias.
      scale: of the scores; 1 / sqrt(head_dim) if None.
      sinks: (num_heads,), the score of one more key whose value is zero: a head may attend to
        nothing.
      dropout_rate: the probability with which each weight is dropped, where there is a ``key``.
      key: for the choice of dropped weights; none are without one.
      method: ``"direct"`` (all scores at once), ``"blocks"`` (some rows at a time, in memory that
        grows with T and not with its square; without bias, tables, sinks and dropout), ``"cudnn"``
        (NVIDIA's kernel for the narrower floats, in reverse mode alone); by default what
        ``choose_attention`` says.

    Returns:
      (batch, T, num_heads, value_dim), of the dtype of ``q``.

    Raises:
      ValueError: for a method that cannot compute this attention, a window of one number that is
        not causal, and one of two that is.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> q = k = jnp.zeros((1, 2, 1, 1))
    >>> v = jnp.array([1.0, 3.0]).reshape(1, 2, 1, 1)
    >>> jl.core.attention(q, k, v).ravel().tolist()
    [2.0, 2.0]
    >>> jl.core.attention(q, k, v, causal=True).ravel().tolist()
    [1.0, 2.0]
    """
    keys = k.shape[1]
    if method != "cudnn":
        mask = shown_by_bias(mask, bias)
    attention_mask = _mask_of(q, k, causal, window, pattern, mask, alibi, positions)
    options = score_options(q, scale, soft_cap)
    terms = ScoreTerms(bias, sinks, relative, key if dropout_rate else None, dropout_rate)
    check_method(method, _possible_methods(q, v, keys, attention_mask, options, terms), "attention")
    if method == "blocks" and has_sharded_type(q):
        raise ValueError(
            "method 'blocks' takes rows and heads one after the other, and an explicit axis of a "
            "mesh divides them; without method= all scores are computed at once"
        )
    cpu, default = (
        choose_attention(q.shape, k.shape, platform, all_scores=terms.any)
        for platform in ("cpu", "gpu")
    )
    if is_sharded(q) or is_sharded(k):
        cpu = AlgorithmChoice("direct", "sharded over devices: XLA's own products")
    record_choice("attention", cpu, default, method)
    # An empty softmax is NaN, and a loop over no blocks has no output.
    if keys == 0 or q.size == 0:
        return jnp.zeros_like(q, shape=(*q.shape[:3], v.shape[-1]))
    if method == "cudnn":
        return _cudnn(q, k, v, attention_mask, options, bias)
    # An accelerator stores the scores rather than recompute them, and has no use for the custom
    # gradient. So the backend of this process decides whether there is one, and `_by_platform`
    # inside it still decides correctly for a program that is lowered for another platform.
    here = cpu if jax.default_backend() == "cpu" else default
    if (method or here.method) == "direct":
        return all_at_once(q, k, v, attention_mask, options, terms)
    arrays = (attention_mask.mask, *(positions or (None, None)))
    present = (mask is not None, positions is not None)
    # Without its arrays, the mask is hashable: the function is made once for each set of options.
    static_mask = attention_mask._replace(mask=None, positions=None)
    run = _blockwise(static_mask, present, options, method is None)
    return run(q, k, v, *(a for a in arrays if a is not None))


def attention_with_weights(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    causal: bool = False,
    window: int | tuple[int, int] | None = None,
    pattern: Pattern | None = None,
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
    alibi: bool | tuple[float, ...] = False,
    relative: RelativeTables | None = None,
    positions: tuple[jax.Array, jax.Array] | None = None,
    soft_cap: float | None = None,
    scale: float | None = None,
    sinks: jax.Array | None = None,
    dropout_rate: float = 0.0,
    key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """``attention``, and the weights (batch, num_heads, T, S) by which values are summed.

    They are those before any is dropped, and zero for a query that attends to no key.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> q = jnp.zeros((1, 2, 1, 1))
    >>> jl.core.attention_with_weights(q, q, q, causal=True)[1].tolist()
    [[[[1.0, 0.0], [0.5, 0.5]]]]
    """
    mask = shown_by_bias(mask, bias)
    visible = _mask_of(q, k, causal, window, pattern, mask, alibi, positions)
    shape = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    if k.shape[1] == 0 or q.size == 0:
        zeros = jnp.zeros_like(q, shape=(*q.shape[:3], v.shape[-1]))
        return zeros, jnp.zeros_like(q, shape=shape)
    terms = ScoreTerms(bias, sinks, relative, key if dropout_rate else None, dropout_rate)
    out, weights = with_weights(q, k, v, visible, score_options(q, scale, soft_cap), terms)
    weights, seen = weights.reshape(shape), visible.full(*shape[2:])
    if seen is None or not visible.may_be_empty:
        return out, weights
    seen = sharded_as(jnp.broadcast_to(seen, shape), weights)
    return out, jnp.where(seen, weights, jnp.zeros_like(weights))


def score_options(q: jax.Array, scale: float | None, soft_cap: float | None) -> ScoreOptions:
    """With the default of ``scale``."""
    return ScoreOptions(max(q.shape[-1], 1) ** -0.5 if scale is None else scale, soft_cap)


def _mask_of(
    q: jax.Array,
    k: jax.Array,
    causal: bool,
    window: int | tuple[int, int] | None,
    pattern: Pattern | None,
    mask: jax.Array | None,
    alibi: bool | tuple[float, ...],
    positions: tuple[jax.Array, jax.Array] | None,
) -> AttentionMask:
    if isinstance(window, int) and not causal:
        raise ValueError("attention with a window has to be causal")
    if isinstance(window, tuple) and causal:
        raise ValueError("causal attention has a window of one number")
    return AttentionMask(
        None if mask is None else four_axes(mask),
        positions,
        causal,
        (window - 1, 0) if isinstance(window, int) else window,
        alibi,
        offset=k.shape[1] - q.shape[1],
        groups=q.shape[2] // k.shape[2],
        num_kv_heads=k.shape[2],
        pattern=pattern,
    )


def choose_attention(
    q: Sequence[int], k: Sequence[int], platform: str, all_scores: bool = False
) -> AlgorithmChoice:
    """The algorithm, with the reason.

    Args:
      q: the shape (batch, T, num_heads, head_dim).
      k: the shape (batch, S, num_kv_heads, head_dim).
      platform: ``"cpu"``, ``"gpu"`` or ``"tpu"``.
      all_scores: whether something is asked for that no other method can.
    """
    if all_scores:
        return AlgorithmChoice("direct", "a bias, tables, sinks or dropout take all scores")
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
    v: jax.Array,
    keys: int,
    mask: AttentionMask,
    options: ScoreOptions,
    terms: ScoreTerms,
) -> list[str]:
    """The methods that can compute this attention."""
    # What the cuDNN kernel supports, as jax.nn.dot_product_attention documents it.
    half_precision = jnp.dtype(q.dtype).itemsize == 2
    square = not mask.causal or mask.offset == 0
    head_dim_fits = q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    plain = options.soft_cap is None and not mask.alibi and mask.positions is None
    plain = plain and mask.pattern is None and not terms._replace(bias=None).any
    cudnn = half_precision and square and head_dim_fits and plain and v.shape[-1] == q.shape[-1]
    blocks = not terms.any and not is_symbolic(q.shape[1], keys)  # they are counted
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
        x = four_axes(x)
        return jnp.broadcast_to(x, (*x.shape[:2], steps, keys))

    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        bias=broadcast(None if bias is None else bias.astype(q.dtype)),
        mask=broadcast(mask.mask),
        is_causal=mask.causal,
        local_window_size=mask.window,
        scale=options.scale,
        implementation="cudnn",
    )
    return out if mask.mask is None else zero_empty(out, mask.full(steps, keys))


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
            return all_at_once(q, k, v, with_arrays(args)[0], options), unused

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
            _, vjp = jax.vjp(lambda q, k, v: all_at_once(q, k, v, mask, options), *args[:3])
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
