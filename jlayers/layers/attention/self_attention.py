"""SelfAttention: every step of a sequence attends to the others.

How to read this file: ``step`` is the layer, for a whole sequence (its carry is None) and for a
block of a stream, whose carry is the cache of keys and values. The projections are in ``base.py``,
the arithmetic in ``core.attention`` and ``core.cached_attention``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ... import core
from ...base.arguments import AboveZero, Fraction, NonNegative, Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.receptive_field import CAUSAL, ReceptiveField
from ...base.sequence import join
from ...base.specs import cast_like
from ...base.types import Carry, Initializer, Key, Params, PyTree
from .base import (
    KERNELS,
    Biases,
    HeadNorm,
    Pattern,
    Projections,
    asked_of_whole,
    attended,
    of_attention,
)
from .inputs import check_beside, of_self, split_pair
from .options import AlibiOption, RelativeOption, RopeOption, WindowSize, check_rope, rope_of
from .relative import T5Bias


@factory
def SelfAttention(
    num_heads: Positive,
    *,
    causal: bool = False,
    window: WindowSize | None = None,
    pattern: Pattern | None = None,
    num_kv_heads: Positive | None = None,
    head_dim: Positive | None = None,
    value_dim: Positive | None = None,
    features: Positive | None = None,
    rope: RopeOption = False,
    alibi: AlibiOption = False,
    relative: RelativeOption | None = None,
    qk_norm: HeadNorm | None = None,
    epsilon: NonNegative = 1e-6,
    scale: AboveZero | None = None,
    soft_cap: AboveZero | None = None,
    sinks: bool = False,
    gate: bool = False,
    dropout_rate: Fraction = 0.0,
    weights: bool = False,
    bias: Biases = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    method: str | None = None,
) -> Layer:
    """``y = concat_i(softmax(q_i k_i' / sqrt(head_dim)) v_i) @ out_kernel + out_bias``.

    With ``q = x @ query_kernel + query_bias``, split into ``num_heads`` heads, and ``k`` and ``v``
    likewise (Vaswani et al., 2017, arXiv:1706.03762).

    The input is ``x``, or ``{"x": x, "mask": mask, "bias": bias}`` with a mask, True where a query
    attends to a key, or a bias, which is added to the scores, or both. The padding of a
    ``Sequence`` is masked out. A query that attends to no key has an output of zero before the last
    projection. With ``{"x": x, "memory": memory}`` keys and values are of another sequence, of as
    many steps, which in a stream comes block by block beside ``x``; a step is valid where it is in
    both. The position of a step is the number of valid steps before it in its row, in a
    stream as in a whole sequence.

    In a stream, the carry holds the keys and values of the last ``window`` steps, or without a
    window those of ``jl.stream(model, capacity=...)`` steps: further steps of a row give NaN.

    Args:
      num_heads: number of heads.
      causal: whether no step attends to a later one.
      window: with ``causal``, to how many steps one attends, itself included; otherwise (before,
        after), to how many steps beside itself.
      pattern: a function of the positions of queries and keys, int32 arrays of one shape, to bools:
        True where a query attends to a key, of those that ``causal`` and ``window`` leave.
      num_kv_heads: number of heads of keys and values, each shared by
        ``num_heads / num_kv_heads`` neighbouring query heads (grouped-query attention, Ainslie et
        al., 2023, arXiv:2305.13245); ``num_heads`` if None.
      head_dim: features of a head; those of the input / ``num_heads`` if None.
      value_dim: features of a head of values; ``head_dim`` if None.
      features: size of the output's last axis; that of the input if None.
      rope: whether queries and keys are rotated by their positions (Su et al., 2021,
        arXiv:2104.09864), or the base of the angles, 10000 for True, or a ``Rope``. The first half
        of a head's features is paired with the second one, as in GPT-NeoX and Llama, unless a
        ``Rope`` says otherwise.
      alibi: whether the scores of head i fall by ``2 ** (-8 i / num_heads)`` with each step of
        distance (Press et al., 2022, arXiv:2108.12409), or by how much, for each head.
      relative: ``T5Bias``, ``ShawPositions`` or ``TransformerXLPositions``, parameters by distance.
      qk_norm: ``"rms"`` or ``"layer"``, how queries and keys are normalised over the features of
        a head, before they are rotated (Dehghani et al., 2023, arXiv:2302.05442).
      epsilon: of ``qk_norm``, added to the mean square.
      scale: of the scores; 1 / sqrt(head_dim) if None.
      soft_cap: scores become ``soft_cap * tanh(scores / soft_cap)``.
      sinks: whether each head has a parameter, the score of one more key whose value is zero
        (Xiao et al., 2024, arXiv:2309.17453, as learned in gpt-oss).
      gate: whether the output of each head is multiplied by ``sigmoid(x @ gate_kernel +
        gate_bias)`` before the last projection (Qiu et al., 2025, arXiv:2505.06708).
      dropout_rate: the probability with which a weight of attention is dropped in training.
      weights: whether the output is (y, weights), with the weights before any is dropped. Such a
        layer cannot be streamed.
      bias: whether the projections have one, or the names of those that do, such as
        ``("query", "key", "value")``.
      kernel_init, bias_init: as in ``jax.nn.initializers``.
      method: as for ``core.attention``.

    Shapes:
      x: (batch, time, in), floating. y: (batch, time, features), of the dtype of ``x``; the softmax
      is float32 at least. mask: bools, bias: floating, (batch, [num_heads,] time, time), where any
      axis may have size 1. weights: (batch, num_heads, time, time).
      params: query_kernel (in, num_heads * head_dim), key_kernel (in, num_kv_heads * head_dim),
      value_kernel (in, num_kv_heads * value_dim), out_kernel (num_heads * value_dim, features), and
      a bias for each: query_bias, key_bias, value_bias, out_bias; with ``gate`` gate_kernel and
      gate_bias, with ``qk_norm`` query_scale and key_scale (head_dim,), with ``sinks`` sinks
      (num_heads,), with ``relative`` what it says.
      carry: keys and values (batch, num_kv_heads, slots, head_dim or value_dim), of the dtype of
      ``x``, the step at position p in slot ``p % slots``; count, int32 (batch,), the valid steps
      so far.

    Raises:
      LayerError: for a ``num_kv_heads`` that does not divide ``num_heads``, a ``num_heads`` that
        does not divide the features of the input where no ``head_dim`` is given, a window of one
        number that is not causal or of two that is, an odd number of features to rotate, a mask
        or a bias that does not fit, or that meets a stream, ``train=True`` without a key where
        weights are dropped, and an input that is not one floating array of rank 3.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.SelfAttention(4, causal=True), jl.spec((2, 10, 32))).shape
    (2, 10, 32)
    """
    maps = Projections(
        num_heads,
        num_kv_heads,
        head_dim,
        value_dim,
        features,
        qk_norm,
        epsilon,
        sinks,
        gate,
        bias,
        kernel_init,
        bias_init,
    )
    if isinstance(window, int) and not causal:
        raise LayerError(
            "a window looks back alone",
            hint=f"causal=True, window={window}; window=(before, after) for both sides",
        )
    if isinstance(window, tuple) and causal:
        hint = f"window={window[0] + 1}, the step itself included"
        raise LayerError("a causal window is one number of steps", hint=hint)
    if isinstance(alibi, tuple) and len(alibi) != num_heads:
        raise LayerError(f"alibi has {len(alibi)} slopes for {num_heads} heads")
    turns = rope_of(rope)

    def init(key: jax.Array, x: PyTree) -> Params:
        given = of_self(x)
        more = {}
        if relative is not None and hasattr(given.x, "shape"):
            # With the sizes of ``maps.init``, whose errors come first.
            sizes = maps.size(given.x), maps.value_size(given.x)
            more = relative.parameters(num_heads, *sizes)
        params = maps.init(key, *given[:3], **more)
        check_beside(given)
        # Only known here: head_dim may follow from the input.
        check_rope(turns, maps.size(given.x))
        given.check(num_heads)
        if isinstance(relative, T5Bias):
            relative.check(given.relative_bias, num_heads)
        elif given.relative_bias is not None:
            raise LayerError(
                "takes no table of distances", hint="relative=T5Bias(..., shared=True)"
            )
        return params

    def start(params: Params, x: PyTree, capacity: int | None) -> Carry:
        # With a window the cache is a ring of that many slots, and a stream may be endless.
        slots = window if isinstance(window, int) else capacity
        if slots is None:
            raise LayerError(
                "attention to all steps needs to know for how many it keeps room",
                hint="jl.stream(model, capacity=...), or window=...",
            )
        steps = of_self(x).x
        # For each row of its own, since rows may have had different numbers of valid steps.
        count = jnp.zeros((steps.shape[0],), jnp.int32)
        rooms = {"keys": params["key_kernel"], "values": params["value_kernel"]}
        shape = (steps.shape[0], maps.kv_heads, slots)
        empty = {
            name: jnp.zeros((*shape, kernel.shape[-1] // maps.kv_heads), steps.dtype)
            for name, kernel in rooms.items()
        }
        return empty | {"count": count}

    def step(params: Params, carry: Carry | None, x: PyTree, key: Key) -> tuple[PyTree, Carry]:
        given = of_self(x)
        values, keys, mask = split_pair(given.x, given.keys)
        p = cast_like(params, values)
        q, k, v = maps.qkv(p, values, keys, keys)
        count = None if carry is None else carry["count"]
        positions = positions_of(mask, count, (values.shape[0], values.shape[1]))
        if turns is not None:
            # Before keys are cached, so that a cached key is never rotated again.
            q, k = (core.apply_rope(a, positions, turns) for a in (q, k))
        if relative is not None:
            q = relative.queries(p, q)
        if given.relative_bias is not None:
            p = p | {"relative_bias": given.relative_bias}
        # The projections are in the dtype of the input; core computes the softmax in float32.
        options: dict[str, Any] = {
            "pattern": pattern,
            "alibi": alibi,
            "relative": relative and relative.tables(p, causal),
            "scale": scale,
            "soft_cap": soft_cap,
            "sinks": p.get("sinks"),
            "dropout_rate": dropout_rate,
            "key": key,
            "method": method,
        }
        if carry is None:
            y = attended(
                maps,
                p,
                (values, mask),
                (q, k, v),
                weights=weights,
                causal=causal,
                window=window,
                mask=given.visible(mask),
                bias=given.added(),
                # Without a mask, positions are indices, which is the default and cheaper.
                positions=None if mask is None else (positions, positions),
                **options,
            )
            return (join(y[0], mask), y[1]) if weights else join(y, mask), {}
        if given.mask is not None or given.bias is not None:
            raise LayerError(
                "a mask or a bias is of a whole sequence, and this is a block of a stream",
                hint="pattern=, a function of positions; padding is the mask of a Sequence",
            )
        asked_of_whole(carry)
        cache = core.Cache(carry["keys"], carry["values"], carry["count"])
        back = window if isinstance(window, int) else None
        y, cache = core.cached_attention(q, k, v, cache, mask=mask, window=back, **options)
        after = {"keys": cache.keys, "values": cache.values, "count": cache.lengths}
        # Under the names of the carry, which are part of saved streams.
        return join(maps.output(p, y, values), mask), after

    field = _receptive_field(causal, window)
    return of_attention(
        init,
        start,
        step,
        None if field is None else lambda x: field,
        dropout_rate=dropout_rate,
        unstreamed=_unstreamed(causal, weights),
        lazy_weights=KERNELS,
    )


def _receptive_field(causal: bool, window: int | tuple[int, int] | None) -> ReceptiveField | None:
    if isinstance(window, tuple):
        return ReceptiveField(1, *window)
    if not causal:
        return None
    return CAUSAL if window is None else ReceptiveField(1, window - 1, 0)


def _unstreamed(causal: bool, weights: bool) -> str | None:
    if not causal:
        return "every step sees the later ones"
    return "its weights are those of a whole sequence" if weights else None


def positions_of(
    mask: jax.Array | None, count: jax.Array | None, shape: tuple[int, int]
) -> jax.Array:
    """The positions of the steps after ``count`` others, (time,) or (batch, time)."""
    # Shared by all rows: rotary angles are then computed once and not for each row.
    if mask is None and count is None:
        return jnp.arange(shape[1], dtype=jnp.int32)
    return core.positions_from_mask(jnp.ones(shape, bool) if mask is None else mask, count)
