"""PReLU: a leaky ReLU whose slope is learned."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ...base import arguments
from ...base.arguments import FeatureAxes
from ...base.constructors import pure
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.specs import cast_like
from ...base.types import Initializer, Params
from ..linear.own_axes import OwnAxes


@factory
def PReLU(
    *,
    feature_axes: FeatureAxes = (),
    # As in the paper and in PyTorch; 0.01 in Flax, 0 in Keras.
    slope_init: Initializer = initializers.constant(0.25),
) -> Layer:
    """``x`` where it is above 0, and ``slope * x`` elsewhere (He et al., 2015, arXiv:1502.01852).

    Args:
      feature_axes: the axes whose entries have slopes of their own, an int or a tuple: -1 for one
        for each feature, ``(1, 2, 3)`` for one for each value of an image, as in Keras. By default
        there is one for all.
      slope_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (...), floating. y: of the same shape and dtype.
      params: slope, of the sizes of ``feature_axes`` in the order of the input's axes: ().

    Raises:
      LayerError: for an input that is not one array of real floats, or lacks an axis of
        ``feature_axes``, and for a ``Sequence`` if the batch or time is one of them.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> jl.PReLU().apply({"slope": jnp.array(0.5)}, {}, jnp.array([-2.0, 3.0]))[0].tolist()
    [-1.0, 3.0]
    """

    axes = OwnAxes.of(feature_axes)

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, "(..., features)")
        arguments.floating(x)
        arguments.real(x)
        return initialize(key, x, slope=(slope_init, axes.sizes(x)))

    def apply(params: Params, x: jax.Array) -> jax.Array:
        slope = cast_like(params, x)["slope"]
        return jnp.where(x > 0, x, x * axes.spread(slope, x))

    return pure(init, apply, sequence_mode=axes.sequence_mode)
