"""CrossAttention: every step of a sequence attends to those of another one."""

from __future__ import annotations

import jax
from jax.nn import initializers

from ... import core
from ...base.arguments import AboveZero, Positive
from ...base.constructors import of_steps
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.receptive_field import EVERYWHERE, ReceptiveField
from ...base.sequence import Steps, join, made_of_steps, split
from ...base.specs import cast_like, format_spec
from ...base.types import Carry, Initializer, Params
from .base import Projections, Spec


@factory
def CrossAttention(
    num_heads: Positive,
    *,
    num_kv_heads: Positive | None = None,
    head_dim: Positive | None = None,
    features: Positive | None = None,
    soft_cap: AboveZero | None = None,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
    method: str | None = None,
) -> Layer:
    """``y = concat_i(softmax(q_i k_i' / sqrt(head_dim)) v_i) @ out_kernel + out_bias``.

    With ``q = x @ query_kernel + query_bias``, split into ``num_heads`` heads, and ``k`` and ``v``
    likewise of ``memory`` (Vaswani et al., 2017, arXiv:1706.03762). The input is the pair
    ``(x, memory)``, each an array or a ``Sequence``. The padding of ``memory`` is masked out; where
    all of it is padding, y is the bias alone. y has the mask of ``x``.

    Each step of ``x`` attends to the whole memory and to no other step of ``x``. In a stream the
    whole memory is given with each block, ``step(params, state, carry, (block, memory))``. A model
    that computes its memory from the block cannot be streamed.

    Args:
      num_heads: number of heads.
      num_kv_heads, soft_cap, bias, kernel_init, bias_init, method: as for ``SelfAttention``.
      head_dim: features of a head; those of ``x`` / ``num_heads`` if None.
      features: size of the output's last axis; that of ``x`` if None.

    Shapes:
      x: (batch, time, in), memory: (batch, steps, of memory), both floating and of one dtype.
      y: (batch, time, features), of their dtype; the softmax is float32 at least.
      params: query_kernel (in, num_heads * head_dim), key_kernel and value_kernel
      (of memory, num_kv_heads * head_dim), out_kernel (num_heads * head_dim, features), and a bias
      for each: query_bias, key_bias, value_bias, out_bias.

    Raises:
      LayerError: for a ``num_kv_heads`` that does not divide ``num_heads``, a ``num_heads`` that
        does not divide the features of ``x`` where no ``head_dim`` is given, and an input that is
        not a pair of floating arrays of rank 3, of one batch and one dtype.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.CrossAttention(4), (jl.spec((2, 10, 32)), jl.spec((2, 7, 16)))).shape
    (2, 10, 32)
    """
    maps = Projections(num_heads, num_kv_heads, head_dim, features, bias, kernel_init, bias_init)

    def init(key: jax.Array, x: tuple[Spec, Spec]) -> Params:
        if not isinstance(x, tuple | list) or len(x) != 2:
            raise LayerError("takes a pair", expected="(x, memory)", got=format_spec(x))
        queries, memory = x
        # First, for its errors name what is wrong with one of the two by itself.
        params = maps.init(key, queries, memory)
        # No promotion: one of the two would decide the dtype of the output unasked.
        if queries.shape[0] != memory.shape[0] or queries.dtype != memory.dtype:
            raise LayerError(
                "x and memory are not of one batch and one dtype",
                got=f"{format_spec(queries)} and {format_spec(memory)}",
            )
        return params

    def step(params: Params, carry: Carry | None, x: tuple[Steps, Steps]) -> tuple[Steps, Carry]:
        (values, mask), (memory, memory_mask) = split(x[0]), split(x[1])
        p = cast_like(params, values)
        q, k, v = maps.qkv(p, values, memory)
        # (batch, steps) to (batch, 1, 1, steps): the same keys for all heads and queries.
        key_mask = None if memory_mask is None else memory_mask[:, None, None]
        y = core.attention(q, k, v, mask=key_mask, soft_cap=soft_cap, method=method)
        return join(maps.output(p, y), mask), {}

    return of_steps(
        init,
        # Its carry is empty: no step of x is read by a later one.
        lambda params, x, capacity: {},
        step,
        # Of a memory that is computed from the model's own input, every step is read.
        lambda x: EVERYWHERE if made_of_steps(x[1]) else ReceptiveField(),
    )
