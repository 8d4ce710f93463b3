"""RMSNorm: each position divided by the root of its mean square."""

from __future__ import annotations

import jax
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.arguments import NonNegative
from ...base.constructors import pure
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.types import Initializer, Params


@factory
def RMSNorm(
    *,
    epsilon: NonNegative = 1e-5,
    scale: bool = True,
    scale_init: Initializer = initializers.ones,
) -> Layer:
    """``x / sqrt(mean(x ** 2) + epsilon) * scale`` over the last axis.

    (Zhang & Sennrich, 2019, arXiv:1910.07467)

    Args:
      epsilon: added to the mean square.
      scale: whether the normalised values are scaled by a parameter.
      scale_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (..., features), floating. y: of the same shape and dtype; the arithmetic is float32 at
      least.
      params: scale (features,).

    Raises:
      LayerError: for an input that is not one array of real floats of rank 1 or more, and for an
        empty last axis.

    >>> import jlayers as jl
    >>> jl.serial(jl.RMSNorm(), jl.Dense(8))
    serial(RMSNorm(), Dense(8))
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, "(..., features)", least_rank=1)
        arguments.floating(x)
        # The square of a complex number is not that of its size.
        arguments.real(x)
        arguments.has_features(x, "(..., features)")
        return initialize(key, x, scale=(scale_init, x.shape[-1:]) if scale else None)

    def apply(params: Params, x: jax.Array) -> jax.Array:
        return core.position_norm(x, params.get("scale"), None, epsilon, centred=False)

    return pure(init, apply)
