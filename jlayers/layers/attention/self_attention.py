"""SelfAttention: every step of a sequence looks at the others."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import Initializer, cast_like
from ...base.receptive_field import CAUSAL, ReceptiveField
from ...base.sequence import join, split
from ...base.sequence_mode import SequenceMode
from ...base.specs import Params, State
from ...base.step_pair import Carry, StepPair, of_step
from .base import above_zero, heads_of

_CARRY = ("keys", "values", "count")


@factory
def SelfAttention(
    num_heads: int,
    *,
    causal: bool = False,
    window: int | None = None,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    features: int | None = None,
    rope: bool | float = False,
    alibi: bool = False,
    soft_cap: float | None = None,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    method: str | None = None,
) -> Layer:
    """``y = concat_i(softmax(q_i k_i' / sqrt(head_dim)) v_i) @ out_kernel + out_bias``.

    With ``q = x @ query_kernel + query_bias``, cut into num_heads, and ``k`` and ``v`` likewise
    (Vaswani et al., 2017, arXiv:1706.03762).

    Of a ``Sequence`` nobody sees the padding. The position of a step is the number of valid steps
    before it in its row, in a stream as in a whole sequence.

    StepPair, it keeps the keys and values of the last ``window`` steps, or without a window those
    of ``jl.stream(model, capacity=...)`` steps: the steps of a row beyond these give NaN.

    Args:
      num_heads: number of heads.
      causal: no step sees a later one.
      window: how many steps one sees, itself included; needs ``causal``.
      num_kv_heads: number of heads of keys and values, each shared by
        ``num_heads / num_kv_heads`` neighbouring query heads (grouped-query attention, Ainslie et
        al., 2023, arXiv:2305.13245); ``num_heads`` if None.
      head_dim: features of a head; those of the input / ``num_heads`` if None.
      features: size of the output's last axis; that of the input if None.
      rope: whether queries and keys are turned by their positions (Su et al., 2021,
        arXiv:2104.09864), or the base of the angles, 10000 for True. The first half of a head's
        features is paired with the second one, as in GPT-NeoX and Llama.
      alibi: whether the scores of head i fall by ``2 ** (-8 i / num_heads)`` with each step of
        distance (Press et al., 2022, arXiv:2108.12409).
      soft_cap: scores become ``soft_cap * tanh(scores / soft_cap)``.
      bias: whether the four maps have one.
      kernel_init, bias_init: as in ``jax.nn.initializers``.
      method: as for ``core.attention``.

    Shapes:
      x: (batch, time, in), floating. y: (batch, time, features), of the dtype of ``x``; the softmax
      is float32 at least.
      params: query_kernel (in, num_heads * head_dim), key_kernel and value_kernel
      (in, num_kv_heads * head_dim), out_kernel (num_heads * head_dim, features), and a bias for
      each: query_bias, key_bias, value_bias, out_bias.
      carry: keys and values (batch, slots, num_kv_heads, head_dim), of the dtype of ``x``, the
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
    maps = heads_of(num_heads, num_kv_heads, head_dim, features, bias, kernel_init, bias_init)
    causal, alibi = arguments.flag("causal", causal), arguments.flag("alibi", alibi)
    if window is not None:
        window = arguments.positive("window", window)
        if not causal:
            raise LayerError("a window looks back alone", hint=f"causal=True, window={window}")
    base = _base(rope)
    soft_cap = above_zero("soft_cap", soft_cap)

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        params = maps.init(key, x, x)
        if base is not None and maps.size(x) % 2:
            raise LayerError(
                f"rope turns pairs of features, and a head has {maps.size(x)}",
                hint="head_dim=..., an even number",
            )
        return params

    def start(params: Params, state: State, x: Any, *, capacity: int | None) -> Carry:
        slots = window or capacity
        if slots is None:
            raise LayerError(
                "attention to all steps needs to know for how many it keeps room",
                hint="jl.stream(model, capacity=...), or window=...",
            )
        size = params["key_kernel"].shape[-1] // maps.num_kv_heads
        empty = jnp.zeros((x.shape[0], slots, maps.num_kv_heads, size), x.dtype)
        count = jnp.zeros((x.shape[0],), jnp.int32)
        return {"keys": empty, "values": jnp.zeros_like(empty), "count": count}

    def step(
        params: Params, state: State, carry: Carry | None, x: Any, *, key: Any, train: bool
    ) -> tuple[Any, Carry]:
        values, mask = split(x)
        p = cast_like(params, values)
        q, k, v = maps.split(p, values, values)
        before = None if carry is None else carry["count"]
        at = _positions(mask, before, values.shape[:2])
        if base is not None:
            q, k = (core.rotary(a, at, base) for a in (q, k))
        how: dict[str, Any] = {"alibi": alibi, "soft_cap": soft_cap, "method": method}
        if carry is None:
            how |= {"positions": None if mask is None else (at, at), "causal": causal}
            seen = None if mask is None else mask[:, None, None]
            y = core.attention(q, k, v, mask=seen, window=window, **how)
            return join(maps.merge(p, y), mask), {}
        cache = core.Cache(*(carry[name] for name in _CARRY))
        y, cache = core.cached_attention(q, k, v, cache, mask=mask, window=window, **how)
        return join(maps.merge(p, y), mask), dict(zip(_CARRY, cache, strict=True))

    unstreamed = None if causal else "every step sees the later ones"
    return Layer(
        lambda key, x: (init(key, x), {}),
        of_step(step),
        sequence_mode=SequenceMode(
            "whole", functools.partial(_receptive_field, window) if causal else None
        ),
        stream=unstreamed or StepPair(start, step),
    )


def _positions(
    mask: jax.Array | None, before: jax.Array | None, shape: tuple[int, int]
) -> jax.Array:
    """Of the steps, (time,) or (batch, time)."""
    if mask is None and before is None:
        return jnp.arange(shape[1], dtype=jnp.int32)
    return core.step_positions(jnp.ones(shape, bool) if mask is None else mask, before)


def _receptive_field(window: int | None, x: Any) -> ReceptiveField:
    return CAUSAL if window is None else ReceptiveField(1, window - 1, 0)


def _base(rope: Any) -> float | None:
    if isinstance(rope, bool):
        return 10000.0 if rope else None
    return above_zero("rope", rope)
