"""AttentionPool: means over all positions, by weights that are learned."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.arguments import Positive
from ...base.constructors import pure
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.sequence import Steps, split
from ...base.sequence_mode import SequenceMode
from ...base.specs import cast_like
from ...base.types import Initializer, Params
from ...core.dtypes import at_least_float32
from ..conv.base import IMAGE, NO_CHANNELS


@factory
def AttentionPool(
    num_queries: Positive | None = None,
    *,
    hidden_features: Positive | None = None,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``sum_t softmax_t(h_t q) x_t`` over all positions, with ``h = x`` or ``tanh(x W + b)``.

    With ``hidden_features`` it is the additive attention of Yang et al. (2016, "Hierarchical
    Attention Networks"). Of a ``Sequence``, over its valid steps; zero where there are none.

    Args:
      num_queries: how many means, each with a query of its own; None is one, without an axis of
        queries.
      hidden_features: of ``h``; None for ``h = x``.
      kernel_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, *spatial, features), floating. y: (batch, features), or (batch, num_queries,
      features), of the dtype of ``x``; weights are computed in float32 at least.
      params: query (features or hidden_features, num_queries or 1); with ``hidden_features`` kernel
      (features, hidden_features) and bias (hidden_features,).

    Raises:
      LayerError: for an input of rank below 3 or of integers, and for an empty axis.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.AttentionPool(), jl.spec((8, 7, 7, 32))).shape
    (8, 32)
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, IMAGE, least_rank=3, lower=NO_CHANNELS)
        arguments.floating(x)
        arguments.real(x)
        arguments.not_empty(x, IMAGE)
        features, hidden = x.shape[-1], hidden_features
        return initialize(
            key,
            x,
            kernel=None if hidden is None else (kernel_init, (features, hidden)),
            bias=None if hidden is None else (bias_init, (hidden,)),
            query=(kernel_init, (hidden or features, num_queries or 1)),
        )

    def apply(params: Params, x: Steps) -> jax.Array:
        values, mask = split(x)
        own = cast_like(params, values)
        query = own.pop("query")
        hidden = jnp.tanh(core.dense(values, **own)) if own else values
        scores = core.dense(hidden, query).astype(at_least_float32(values.dtype))
        positions = tuple(range(1, values.ndim - 1))
        if mask is not None:
            shape = (*mask.shape, *(1 for _ in scores.shape[2:]))
            valid = jnp.broadcast_to(mask.reshape(shape), scores.shape)
            # Not minus infinity: of a row without steps the softmax would be NaN.
            scores = jnp.where(valid, scores, np.asarray(-1e30, scores.dtype))
        weights = jax.nn.softmax(scores, positions)
        if mask is not None:
            weights = jnp.where(valid, weights, jnp.zeros_like(weights))
        y = jnp.einsum("b...q,b...f->bqf", weights, values.astype(weights.dtype))
        y = y.astype(values.dtype)
        return y[:, 0] if num_queries is None else y

    return pure(
        init,
        apply,
        sequence_mode=SequenceMode("whole"),
        stream="it is one value for the whole sequence",
    )
