"""DataNorm: inputs normalised by the statistics of a data set."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ...base import arguments
from ...base.arguments import AboveZero, FeatureAxes
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.sequence_mode import SequenceMode
from ...base.types import Key, Params, State
from ...core.dtypes import at_least_float32


@factory
def DataNorm(
    *,
    feature_axes: FeatureAxes = -1,
    invert: bool = False,
    epsilon: AboveZero = 1e-7,
) -> Layer:
    """``(x - mean) / max(sqrt(var), epsilon)``, by statistics that are in the state and stay.

    ``data.moments(batches).state`` computes them from a data set; until they are put into the
    state, the layer is the identity. Known as ``Normalization`` with ``adapt`` in Keras.

    Args:
      feature_axes: the axes whose entries have statistics of their own; ``()`` for one mean and one
        variance of all values.
      invert: whether it goes back instead: ``x * max(sqrt(var), epsilon) + mean``, for outputs.
      epsilon: the least deviation that is divided by.

    Shapes:
      x: (..., features), real numbers. y: of the same shape; floating inputs keep their dtype, and
      integers become float32. The arithmetic is float32 at least.
      state: mean and var, of the sizes of ``feature_axes``: (features,).

    Raises:
      LayerError: for an input that is not one array of real numbers, or that lacks an axis; for a
        ``Sequence`` whose steps have statistics of their own.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> state = {"mean": jnp.array([1.0, 2.0]), "var": jnp.array([4.0, 0.0])}
    >>> jl.DataNorm().apply({}, state, jnp.array([[5.0, 2.0]]))[0].tolist()
    [[2.0, 0.0]]
    """
    axes = feature_axes if isinstance(feature_axes, tuple) else (feature_axes,)

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> tuple[Params, State]:
        arguments.one_array(x, "(..., features)", least_rank=1)
        arguments.real(x)
        features = tuple(x.shape[axis] for axis in sorted(arguments.axes_of(x, axes)))
        return {}, initialize(
            key, x, mean=(initializers.zeros, features), var=(initializers.ones, features)
        )

    def apply(
        params: Params, state: State, x: jax.Array, *, key: Key, train: bool
    ) -> tuple[jax.Array, State]:
        dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else state["mean"].dtype
        wide = at_least_float32(dtype)
        own = arguments.axes_of(x, axes)
        shape = tuple(size if axis in own else 1 for axis, size in enumerate(x.shape))
        mean, variance = (
            jnp.broadcast_to(state[name].astype(wide).reshape(shape), x.shape)
            for name in ("mean", "var")
        )
        deviation = jnp.maximum(jnp.sqrt(variance), epsilon)
        values = x.astype(wide)
        y = values * deviation + mean if invert else (values - mean) / deviation
        return y.astype(dtype), state

    mode = SequenceMode.PER_STEP if set(axes) <= {-1} else SequenceMode.UNKNOWN
    return Layer(init, apply, sequence_mode=mode)
