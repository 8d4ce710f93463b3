"""UnitNorm: vectors scaled to length 1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ...base import arguments
from ...base.arguments import AboveZero, Axes
from ...base.constructors import no_params, pure
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence_mode import SequenceMode
from ...base.types import Params
from ...core.dtypes import at_least_float32
from ...core.norm import inverse_root


@factory
def UnitNorm(axis: Axes = -1, *, p: AboveZero = 2.0, epsilon: AboveZero = 1e-12) -> Layer:
    """``x / max(sum(abs(x) ** p) ** (1 / p), epsilon)``: the direction of ``x``.

    Zero stays zero, and its gradient is finite. Where the sum of squares is beyond the range of
    float32 (values of 2e19 and more), the result is NaN.

    Args:
      axis: the axis of the vectors, or several.
      p: the exponent of the length: 2 is that of Euclid, 1 makes absolute values that sum to 1.
      epsilon: the least length that is divided by.

    Shapes:
      x: of rank 1 or more, floating. y: of the same shape and dtype; the arithmetic is float32 at
      least.

    Raises:
      LayerError: for an input that is not one array of real floats, or that lacks an axis.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> y, _ = jl.UnitNorm().apply({}, {}, jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    >>> y.round(3).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    axes = axis if isinstance(axis, tuple) else (axis,)

    def apply(params: Params, x: jax.Array) -> jax.Array:
        arguments.one_array(x, "(..., features)", least_rank=1)
        arguments.floating(x)
        arguments.real(x)
        wide = x.astype(at_least_float32(x.dtype))
        if p != 2:
            return (wide / _length(wide, p, epsilon, arguments.axes_of(x, axes))).astype(x.dtype)
        squared = jnp.sum(jnp.square(wide), arguments.axes_of(x, axes), keepdims=True)
        # Compared before the root, whose slope at 0 is infinite; and with a number whose root is
        # finite, however small epsilon is.
        least = max(epsilon**2, float(np.finfo(wide.dtype).tiny))
        return (wide * inverse_root(jnp.maximum(squared, least))).astype(x.dtype)

    mode = SequenceMode.PER_STEP if axis == -1 else SequenceMode.UNKNOWN
    return pure(no_params, apply, sequence_mode=mode)


def _length(x: jax.Array, p: float, epsilon: float, axes: tuple[int, ...]) -> jax.Array:
    zero = x == 0
    # The slope of a power at zero may be infinite, of the sum's root too.
    powers = jnp.where(zero, 0, jnp.where(zero, 1, jnp.abs(x)) ** p)
    least = max(epsilon**p, float(np.finfo(x.dtype).tiny))
    return jnp.maximum(jnp.sum(powers, axes, keepdims=True), least) ** (1 / p)
