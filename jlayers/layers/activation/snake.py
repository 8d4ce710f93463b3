"""Snake: an activation that can learn to repeat itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ...base import arguments
from ...base.constructors import pure
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.specs import cast_like
from ...base.types import Initializer, Params
from ...core.dense import spread_features

# Of frequencies near 0 the formula is 0 / 0, where its limit is x.
_LEAST = 1e-9


@factory
def Snake(*, frequency_init: Initializer = initializers.ones) -> Layer:
    """``x + sin(a * x) ** 2 / a`` with a learned frequency a for each feature.

    For signals that are periodic, such as audio (Ziyin et al., 2020, arXiv:2006.08195).

    Args:
      frequency_init: as in ``jax.nn.initializers``; radians for one unit of ``x``.

    Shapes:
      x: (..., features), floating. y: of the same shape and dtype.
      params: frequency (features,).

    Raises:
      LayerError: for an input that is not one array of real floats of rank 1 or more.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> y, _ = jl.Snake().apply({"frequency": jnp.ones(1)}, {}, jnp.array([jnp.pi / 2]))
    >>> round(float(y[0]), 4)
    2.5708
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, "(..., features)", least_rank=1)
        arguments.floating(x)
        arguments.real(x)
        arguments.has_features(x, "(..., features)")
        return initialize(key, x, frequency=(frequency_init, x.shape[-1:]))

    def apply(params: Params, x: jax.Array) -> jax.Array:
        a = spread_features(cast_like(params, x)["frequency"], x)
        safe = jnp.where(jnp.abs(a) < _LEAST, jnp.full_like(a, _LEAST), a)
        return x + jnp.square(jnp.sin(a * x)) / safe

    return pure(init, apply)
