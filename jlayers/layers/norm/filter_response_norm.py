"""FilterResponseNorm: each channel divided by its root mean square, with a learned threshold."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.arguments import NonNegative
from ...base.constructors import pure
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.sequence import Steps, join, split
from ...base.sequence_mode import SequenceMode
from ...base.types import Initializer, Params
from ...core.dtypes import at_least_float32


@factory
def FilterResponseNorm(
    *,
    epsilon: NonNegative = 1e-6,
    learned_epsilon: bool = False,
    threshold: bool = True,
    scale: bool = True,
    bias: bool = True,
    scale_init: Initializer = initializers.ones,
    bias_init: Initializer = initializers.zeros,
    threshold_init: Initializer = initializers.zeros,
) -> Layer:
    """``max(x / sqrt(mean(x ** 2) + epsilon) * scale + bias, threshold)``, over positions.

    The mean is that of one example and one channel; nothing depends on the batch. The threshold is
    the activation, TLU, that takes the place of ReLU (Singh & Krishnan, 2019, arXiv:1911.09737).
    The padding of a ``Sequence`` is left out of the mean.

    Args:
      epsilon: added to the mean square.
      learned_epsilon: whether the size of a parameter, 1e-4 at first, is added too: for inputs of
        one position, whose normalised values would be signs.
      threshold: whether the result is at least a learned threshold for each channel.
      scale, bias: whether the normalised values are scaled and shifted by parameters.
      scale_init, bias_init, threshold_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, ..., features), floating. y: of the same shape and dtype; the arithmetic is float32
      at least.
      params: scale, bias and threshold (features,); epsilon () with ``learned_epsilon``.

    Raises:
      LayerError: for an input that is not one array of real floats of rank 2 or more.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> layer = jl.FilterResponseNorm(threshold=False, scale=False, bias=False)
    >>> y, _ = layer.apply({}, {}, jnp.array([[[1.0], [7.0]]]))
    >>> [round(float(value), 2) for value in y.ravel()]
    [0.2, 1.4]
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, "(batch, ..., features)", least_rank=2)
        arguments.floating(x)
        arguments.real(x)
        arguments.has_features(x, "(batch, ..., features)")
        features = x.shape[-1:]
        return initialize(
            key,
            x,
            scale=(scale_init, features) if scale else None,
            bias=(bias_init, features) if bias else None,
            threshold=(threshold_init, features) if threshold else None,
            epsilon=(initializers.constant(1e-4), ()) if learned_epsilon else None,
        )

    def apply(params: Params, x: Steps) -> Steps:
        values, mask = split(x)
        axes = tuple(range(1, values.ndim - 1))
        wide = at_least_float32(values.dtype)
        squares = jnp.square(values.astype(wide))
        if mask is None and 0 not in values.shape:
            square = jnp.mean(squares, axes, keepdims=True)
        else:
            # Of no values at all the mean is 0, not NaN.
            known = jnp.ones(values.shape[:1], bool) if mask is None else mask
            valid = known.reshape(*known.shape, *(1,) * (values.ndim - known.ndim))
            valid = jnp.broadcast_to(valid, values.shape)
            total = jnp.sum(jnp.where(valid, squares, jnp.zeros_like(squares)), axes, keepdims=True)
            square = total / jnp.maximum(jnp.sum(valid, axes, keepdims=True, dtype=wide), 1)
        if learned_epsilon:
            square = square + lax.broadcast(jnp.abs(params["epsilon"].astype(wide)), square.shape)
        rows = {
            name: params[name].reshape((1,) * (values.ndim - 1) + values.shape[-1:])
            for name in ("scale", "bias", "threshold")
            if name in params
        }
        y = core.normalize(values, None, square, rows.get("scale"), rows.get("bias"), epsilon)
        if threshold:
            y = jnp.maximum(y, jnp.broadcast_to(rows["threshold"].astype(y.dtype), y.shape))
        return join(y, mask)

    return pure(
        init,
        apply,
        sequence_mode=SequenceMode("whole"),
        stream="its statistics are those of the whole sequence",
    )
