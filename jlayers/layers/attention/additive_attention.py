"""AdditiveAttention: scores from a small network of query and key, and not from their product."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ... import core
from ...base.arguments import Fraction, Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.sequence import join, split
from ...base.specs import cast_like, format_spec
from ...base.types import Carry, Initializer, Key, Params, PyTree
from ...core.attention.direct import masked_mean
from .base import asked_of_whole, of_attention
from .inputs import check_memory, field_of_memory, of_cross, split_pair


@factory
def AdditiveAttention(
    hidden_dim: Positive | None = None,
    *,
    dropout_rate: Fraction = 0.0,
    weights: bool = False,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    scale_init: Initializer = initializers.normal(0.1),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``y_t = sum_s softmax_s(scale . tanh(q_t + k_s)) v_s`` (Bahdanau et al., 2015).

    With ``q = x @ query_kernel + bias`` and ``k = keys @ key_kernel`` (arXiv:1409.0473). The input
    is ``(x, memory)``, whose steps are keys and values, ``(x, keys, values)``, or a dict of these
    names with a mask or a bias, as for ``CrossAttention``, which also says what becomes of padding
    and of a stream.

    Args:
      hidden_dim: size of the hidden layer; if None, ``q`` and ``k`` are the inputs themselves, as
        in Keras, and have one size.
      dropout_rate: the probability with which a weight of attention is dropped in training.
      weights: whether the output is (y, weights), with the weights before any is dropped.
      bias: whether the hidden layer has one.
      kernel_init, scale_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, time, in), keys: (batch, steps, of keys), values: (batch, steps, of values), all
      floating and of one dtype. y: (batch, time, of values); the softmax is float32 at least.
      weights: (batch, time, steps).
      params: scale (hidden_dim,), and where that is given query_kernel (in, hidden_dim), key_kernel
      (of keys, hidden_dim), bias (hidden_dim,).

    Raises:
      LayerError: for inputs that do not fit, as ``CrossAttention`` says, and for queries and keys
        of two sizes without a ``hidden_dim``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.AdditiveAttention(8), (jl.spec((2, 10, 32)), jl.spec((2, 7, 16)))).shape
    (2, 10, 16)
    """

    def init(key: jax.Array, x: PyTree) -> Params:
        given = of_cross(x)
        check_memory(given, 1)
        width, of_keys = given.x.shape[-1], given.keys.shape[-1]
        if hidden_dim is None:
            if width != of_keys:
                raise LayerError(
                    "queries and keys have two sizes",
                    got=f"{format_spec(given.x)} and {format_spec(given.keys)}",
                    hint="AdditiveAttention(hidden_dim), which maps both to one",
                )
            return initialize(key, given.x, scale=(scale_init, (width,)))
        return initialize(
            key,
            given.x,
            scale=(scale_init, (hidden_dim,)),
            query_kernel=(kernel_init, (width, hidden_dim)),
            key_kernel=(kernel_init, (of_keys, hidden_dim)),
            bias=(bias_init, (hidden_dim,)) if bias else None,
        )

    def step(params: Params, carry: Carry | None, x: PyTree, key: Key) -> tuple[PyTree, Carry]:
        given = of_cross(x)
        q, mask = split(given.x)
        k, v, memory_mask = split_pair(given.keys, given.values)
        p = cast_like(params, q)
        if hidden_dim is not None:
            q = core.dense(q, p["query_kernel"], p.get("bias"))
            k = core.dense(k, p["key_kernel"], None)
        shape = (*q.shape[:2], *k.shape[1:])
        hidden = jnp.broadcast_to(q[:, :, None], shape) + jnp.broadcast_to(k[:, None], shape)
        scores = jnp.einsum("btsh,h->bts", jnp.tanh(hidden), p["scale"])
        y, of_keys = masked_mean(
            scores[:, None],
            v[:, :, None],
            given.visible(memory_mask),
            given.added(),
            dropout_rate,
            key,
        )
        out = join(y[:, :, 0], mask)
        asked = asked_of_whole()
        if not weights and asked is None:
            return out, {}
        of_keys = of_keys[:, 0]
        if mask is not None:
            here = jnp.broadcast_to(mask[..., None], of_keys.shape)
            of_keys = jnp.where(here, of_keys, jnp.zeros_like(of_keys))
        if asked is not None:
            # With an axis for the one head, as other attention has them.
            asked.give("weights", of_keys[:, None])
        return ((out, of_keys) if weights else out), {}

    return of_attention(
        init, lambda params, x, capacity: {}, step, field_of_memory, dropout_rate=dropout_rate
    )
