"""LayerNorm: each position normalised over its own features."""

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
def LayerNorm(
    *,
    # As PyTorch, Haiku and Equinox have it (docs/notes/0004-defaults.md).
    epsilon: NonNegative = 1e-5,
    scale: bool = True,
    bias: bool = True,
    scale_init: Initializer = initializers.ones,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``(x - mean) / sqrt(var + epsilon) * scale + bias`` over the last axis.

    (Ba et al., 2016, arXiv:1607.06450)

    Args:
      epsilon: added to the (biased) variance.
      scale, bias: whether the normalised values are scaled and shifted by parameters.
      scale_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (..., features), floating. y: of the same shape and dtype; the arithmetic is float32 at
      least.
      params: scale (features,), bias (features,).

    Raises:
      LayerError: for an input that is not one array of real floats of rank 1 or more, and for an
        empty last axis.

    >>> import jlayers as jl
    >>> jl.serial(jl.LayerNorm(), jl.Dense(8))
    serial(LayerNorm(), Dense(8))
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, "(..., features)", least_rank=1)
        arguments.floating(x)
        arguments.real(x)
        arguments.has_features(x, "(..., features)")
        return initialize(
            key,
            x,
            scale=(scale_init, x.shape[-1:]) if scale else None,
            bias=(bias_init, x.shape[-1:]) if bias else None,
        )

    def apply(params: Params, x: jax.Array) -> jax.Array:
        return core.position_norm(x, params.get("scale"), params.get("bias"), epsilon)

    return pure(init, apply)
