"""CrossAttention: every step of a sequence attends to those of another one."""

from __future__ import annotations

import jax
from jax.nn import initializers

from ...base.arguments import AboveZero, Fraction, NonNegative, Positive
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence import join, split
from ...base.specs import cast_like
from ...base.types import Carry, Initializer, Key, Params, PyTree
from .base import KERNELS, Biases, HeadNorm, Projections, attended, of_attention
from .inputs import check_memory, field_of_memory, of_cross, split_pair


@factory
def CrossAttention(
    num_heads: Positive,
    *,
    num_kv_heads: Positive | None = None,
    head_dim: Positive | None = None,
    value_dim: Positive | None = None,
    features: Positive | None = None,
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
    likewise of ``memory`` (Vaswani et al., 2017, arXiv:1706.03762). The input is the pair
    ``(x, memory)``, each an array or a ``Sequence``; or ``(x, keys, values)``, where keys and
    values have the same steps; or a dict of either by these names, with a ``"mask"``, True where a
    query attends to a key, or a ``"bias"``, which is added to the scores, or both. Padding of keys
    or values is masked out; where nothing is left, y is the bias alone. y has the mask of ``x``.

    Each step of ``x`` attends to the whole memory and to no other step of ``x``. In a stream the
    whole memory is given with each block, ``step(params, state, carry, (block, memory))``, and a
    mask or a bias is that of the block's queries. A model that computes its memory from the block
    cannot be streamed.

    Args:
      num_heads: number of heads.
      head_dim: features of a head; those of ``x`` / ``num_heads`` if None.
      features: size of the output's last axis; that of ``x`` if None.
      num_kv_heads, value_dim, qk_norm, epsilon, scale, soft_cap: as for ``SelfAttention``.
      sinks, gate, dropout_rate, weights, bias, kernel_init, bias_init, method: likewise.

    Shapes:
      x: (batch, time, in), memory, keys, values: (batch, steps, of theirs), all floating and of one
      dtype. mask: bools, bias: floating, (batch, [num_heads,] time, steps), where any axis may have
      size 1.
      y: (batch, time, features), of their dtype; the softmax is float32 at least. weights:
      (batch, num_heads, time, steps).
      params: query_kernel (in, num_heads * head_dim), key_kernel (of keys, num_kv_heads *
      head_dim), value_kernel (of values, num_kv_heads * value_dim), out_kernel (num_heads *
      value_dim, features), and a bias for each: query_bias, key_bias, value_bias, out_bias;
      further ones as for ``SelfAttention``.

    Raises:
      LayerError: for a ``num_kv_heads`` that does not divide ``num_heads``, a ``num_heads`` that
        does not divide the features of ``x`` where no ``head_dim`` is given, a mask or a bias that
        does not fit, ``train=True`` without a key where weights are dropped, and an input that is
        not a pair of floating arrays of rank 3, of one batch and one dtype.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.CrossAttention(4), (jl.spec((2, 10, 32)), jl.spec((2, 7, 16)))).shape
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

    def init(key: jax.Array, x: PyTree) -> Params:
        given = of_cross(x)
        # First, for its errors name what is wrong with one of them by itself.
        params = maps.init(key, *given[:3])
        check_memory(given, num_heads)
        return params

    def step(params: Params, carry: Carry | None, x: PyTree, key: Key) -> tuple[PyTree, Carry]:
        given = of_cross(x)
        values, mask = split(given.x)
        keys, of_keys, memory_mask = split_pair(given.keys, given.values)
        p = cast_like(params, values)
        y = attended(
            maps,
            p,
            (values, mask),
            maps.qkv(p, values, keys, of_keys),
            weights=weights,
            mask=given.visible(memory_mask),
            bias=given.added(),
            scale=scale,
            soft_cap=soft_cap,
            sinks=p.get("sinks"),
            dropout_rate=dropout_rate,
            key=key,
            method=method,
        )
        return (join(y[0], mask), y[1]) if weights else join(y, mask), {}

    return of_attention(
        init,
        # Its carry is empty: no step of x is read by a later one.
        lambda params, x, capacity: {},
        step,
        field_of_memory,
        dropout_rate=dropout_rate,
        lazy_weights=KERNELS,
    )
