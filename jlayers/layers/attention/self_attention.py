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
from ...base.arguments import AboveZero, Positive, above_zero
from ...base.constructors import of_steps
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.receptive_field import CAUSAL, ReceptiveField
from ...base.sequence import Steps, join, split
from ...base.specs import cast_like
from ...base.types import Carry, Initializer, Params
from .base import Projections, Spec


@factory
def SelfAttention(
    num_heads: Positive,
    *,
    causal: bool = False,
    window: Positive | None = None,
    num_kv_heads: Positive | None = None,
    head_dim: Positive | None = None,
    features: Positive | None = None,
    rope: bool | float = False,
    alibi: bool = False,
    soft_cap: AboveZero | None = None,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    method: str | None = None,
) -> Layer:
    """``y = concat_i(softmax(q_i k_i' / sqrt(head_dim)) v_i) @ out_kernel + out_bias``.

    With ``q = x @ query_kernel + query_bias``, split into ``num_heads`` heads, and ``k`` and ``v``
    likewise (Vaswani et al., 2017, arXiv:1706.03762).

    The padding of a ``Sequence`` is masked out. The position of a step is the number of valid steps
    before it in its row, in a stream as in a whole sequence.

    In a stream, the carry holds the keys and values of the last ``window`` steps, or without a
    window those of ``jl.stream(model, capacity=...)`` steps: further steps of a row give NaN.

    Args:
      num_heads: number of heads.
      causal: whether no step attends to a later one.
      window: to how many steps one attends, itself included; needs ``causal``.
      num_kv_heads: number of heads of keys and values, each shared by
        ``num_heads / num_kv_heads`` neighbouring query heads (grouped-query attention, Ainslie et
        al., 2023, arXiv:2305.13245); ``num_heads`` if None.
      head_dim: features of a head; those of the input / ``num_heads`` if None.
      features: size of the output's last axis; that of the input if None.
      rope: whether queries and keys are rotated by their positions (Su et al., 2021,
        arXiv:2104.09864), or the base of the angles, 10000 for True. The first half of a head's
        features is paired with the second one, as in GPT-NeoX and Llama.
      alibi: whether the scores of head i fall by ``2 ** (-8 i / num_heads)`` with each step of
        distance (Press et al., 2022, arXiv:2108.12409).
      soft_cap: scores become ``soft_cap * tanh(scores / soft_cap)``.
      bias: whether the four projections have one.
      kernel_init, bias_init: as in ``jax.nn.initializers``.
      method: as for ``core.attention``.

    Shapes:
      x: (batch, time, in), floating. y: (batch, time, features), of the dtype of ``x``; the softmax
      is float32 at least.
      params: query_kernel (in, num_heads * head_dim), key_kernel and value_kernel
      (in, num_kv_heads * head_dim), out_kernel (num_heads * head_dim, features), and a bias for
      each: query_bias, key_bias, value_bias, out_bias.
      carry: keys and values (batch, num_kv_heads, slots, head_dim), of the dtype of ``x``, the
      step at position p in slot ``p % slots``; count, int32 (batch,), the valid steps so far.

    Raises:
      LayerError: for a ``num_kv_heads`` that does not divide ``num_heads``, a ``num_heads`` that
        does not divide the features of the input where no ``head_dim`` is given, a window that is
        not causal, heads of an odd size with ``rope``, and an input that is not one floating
        array of rank 3.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.SelfAttention(4, causal=True), jl.spec((2, 10, 32))).shape
    (2, 10, 32)
    """
    maps = Projections(num_heads, num_kv_heads, head_dim, features, bias, kernel_init, bias_init)
    if window is not None and not causal:
        raise LayerError("a window looks back alone", hint=f"causal=True, window={window}")
    rope_base = _rope_base(rope)

    def init(key: jax.Array, x: Spec) -> Params:
        params = maps.init(key, x, x)
        # Only known here: head_dim may follow from the input.
        if rope_base is not None and maps.size(x) % 2:
            raise LayerError(
                f"rope turns pairs of features, and a head has {maps.size(x)}",
                hint="head_dim=..., an even number",
            )
        return params

    def start(params: Params, x: Spec, capacity: int | None) -> Carry:
        # With a window the cache is a ring of that many slots, and a stream may be endless.
        slots = window or capacity
        if slots is None:
            raise LayerError(
                "attention to all steps needs to know for how many it keeps room",
                hint="jl.stream(model, capacity=...), or window=...",
            )
        size = params["key_kernel"].shape[-1] // maps.kv_heads
        empty = jnp.zeros((x.shape[0], maps.kv_heads, slots, size), x.dtype)
        # For each row of its own, since rows may have had different numbers of valid steps.
        count = jnp.zeros((x.shape[0],), jnp.int32)
        return {"keys": empty, "values": jnp.zeros_like(empty), "count": count}

    def step(params: Params, carry: Carry | None, x: Steps) -> tuple[Steps, Carry]:
        values, mask = split(x)
        p = cast_like(params, values)
        q, k, v = maps.qkv(p, values, values)
        count = None if carry is None else carry["count"]
        positions = _positions(mask, count, values.shape[:2])
        if rope_base is not None:
            # Before keys are cached, so that a cached key is never rotated again.
            q, k = (core.apply_rope(a, positions, rope_base) for a in (q, k))
        # The projections are in the dtype of the input; core computes the softmax in float32.
        options: dict[str, Any] = {"alibi": alibi, "soft_cap": soft_cap, "method": method}
        if carry is None:
            y = core.attention(
                q,
                k,
                v,
                causal=causal,
                window=window,
                mask=None if mask is None else mask[:, None, None],
                # Without a mask, positions are indices, which is the default and cheaper.
                positions=None if mask is None else (positions, positions),
                **options,
            )
            return join(maps.output(p, y), mask), {}
        cache = core.Cache(carry["keys"], carry["values"], carry["count"])
        y, cache = core.cached_attention(q, k, v, cache, mask=mask, window=window, **options)
        after = {"keys": cache.keys, "values": cache.values, "count": cache.lengths}
        # Under the names of the carry, which are part of saved streams.
        return join(maps.output(p, y), mask), after

    if not causal:
        return of_steps(init, start, step, None, "every step sees the later ones")
    field = CAUSAL if window is None else ReceptiveField(1, window - 1, 0)
    return of_steps(init, start, step, lambda x: field)


def _positions(
    mask: jax.Array | None, count: jax.Array | None, shape: tuple[int, int]
) -> jax.Array:
    """The positions of the steps after ``count`` others, (time,) or (batch, time)."""
    # Shared by all rows: rotary angles are then computed once and not for each row.
    if mask is None and count is None:
        return jnp.arange(shape[1], dtype=jnp.int32)
    return core.positions_from_mask(jnp.ones(shape, bool) if mask is None else mask, count)


def _rope_base(rope: object) -> float | None:
    # Before the check of numbers: True is one, and 10000 is the base of the paper.
    if isinstance(rope, bool):
        return 10000.0 if rope else None
    return None if rope is None else above_zero("rope", rope)
