"""SinusoidalPositions: sines and cosines of the position, added to the steps."""

from __future__ import annotations

import jax

from ... import core
from ...base.arguments import AboveZero
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.positions import of_positions
from ...base.specs import format_spec
from ...base.types import Params
from .base import check_steps, over_features


@factory
def SinusoidalPositions(*, base: AboveZero = 10000.0) -> Layer:
    """``y_t = x_t + sinusoids(t)``: fixed positions of any number (Vaswani et al., 2017).

    Half of the features are sines and half are cosines, of wavelengths from 2 pi to ``2 pi base``
    (arXiv:1706.03762); see ``core.sinusoids``. Positions count valid steps: padding in front of a
    row counts nothing, and a stream goes on where its last block ended.

    Args:
      base: the larger it is, the longer the longest wave.

    Shapes:
      x, y: (batch, time, ..., features), floating, with an even number of features.
      No parameters.

    Raises:
      LayerError: for an input without a time axis, or with an odd number of features.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> y, _ = jl.SinusoidalPositions().apply({}, {}, jnp.zeros((1, 3, 2)))
    >>> y.round(2).tolist()[0][0]
    [0.0, 1.0]
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        check_steps(x)
        if x.shape[-1] % 2:
            raise LayerError(
                f"takes an even number of features, got {x.shape[-1]}", got=format_spec(x)
            )
        return {}

    def apply(params: Params, x: jax.Array, positions: jax.Array) -> jax.Array:
        return x + over_features(core.sinusoids(positions, x.shape[-1], base), x)

    return of_positions(init, apply)
