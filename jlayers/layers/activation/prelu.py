"""PReLU: a leaky ReLU whose slope is learned."""

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


@factory
def PReLU(
    *,
    per_feature: bool = False,
    # As in the paper and in PyTorch; 0.01 in Flax, 0 in Keras.
    slope_init: Initializer = initializers.constant(0.25),
) -> Layer:
    """``x`` where it is above 0, and ``slope * x`` elsewhere (He et al., 2015, arXiv:1502.01852).

    Args:
      per_feature: whether each feature of the last axis has a slope of its own; by default there is
        one for all.
      slope_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (..., features), floating; of any rank with one slope. y: of the same shape and dtype.
      params: slope () or (features,).

    Raises:
      LayerError: for an input that is not one array of real floats, of rank 1 or more with
        ``per_feature``.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> jl.PReLU().apply({"slope": jnp.array(0.5)}, {}, jnp.array([-2.0, 3.0]))[0].tolist()
    [-1.0, 3.0]
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, "(..., features)", least_rank=1 if per_feature else 0)
        arguments.floating(x)
        arguments.real(x)
        if per_feature:
            arguments.has_features(x, "(..., features)")
        return initialize(key, x, slope=(slope_init, x.shape[-1:] if per_feature else ()))

    def apply(params: Params, x: jax.Array) -> jax.Array:
        slope = cast_like(params, x)["slope"]
        return jnp.where(x > 0, x, x * spread_features(slope, x))

    return pure(init, apply)
