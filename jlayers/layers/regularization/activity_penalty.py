"""ActivityPenalty: the identity, with a loss for large values."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...base import arguments
from ...base.arguments import NonNegative
from ...base.collecting import add_loss
from ...base.constructors import pure
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Params
from ...core.dtypes import at_least_float32


@factory
def ActivityPenalty(*, l1: NonNegative = 0.0, l2: NonNegative = 0.0) -> Layer:
    """``x``, and adds ``l1 * sum(|x|) + l2 * sum(|x| ** 2)`` for each row to the training loss.

    The penalty is the mean over the rows, as in Keras; padded steps of a ``Sequence`` count
    nothing. Whoever collects losses adds it: ``training.train_step``, or ``with_losses``.

    Args:
      l1, l2: the weights of the two sums.

    Shapes:
      x: (batch, ...), floating. y: the same.

    Raises:
      LayerError: for an input that is not one floating array with a batch.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> model = jl.with_losses(jl.ActivityPenalty(l1=0.1))
    >>> (_, loss), _ = model.apply({}, {}, jnp.array([[1.0, -2.0], [3.0, 0.0]]))
    >>> round(float(loss), 6)
    0.3
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, "(batch, ...)", least_rank=1)
        arguments.floating(x)
        return {}

    def apply(params: Params, x: jax.Array) -> jax.Array:
        size = jnp.abs(x).astype(at_least_float32(x.real.dtype))
        # Not over zero rows: an empty batch has no penalty.
        rows = jnp.maximum(x.shape[0], 1)
        add_loss(jnp.sum(l1 * size + l2 * jnp.square(size)) / rows)
        return x

    return pure(init, apply)
