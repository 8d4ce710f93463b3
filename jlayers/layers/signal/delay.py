"""Delay: a signal some steps later."""

from __future__ import annotations

import jax

from ...base import arguments
from ...base.arguments import NonNegativeInteger
from ...base.constructors import no_params
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Params
from ...core.time_windows import TimeWindow
from ..conv.base import WindowedOp, windowed_layer
from .base import SIGNAL


@factory
def Delay(steps: NonNegativeInteger) -> Layer:
    """``y[t] = x[t - steps]``, and zeros for the first ``steps``; what came last is lost.

    Args:
      steps: by how many.

    Shapes:
      x: (batch, time, ...). y: the same, with the mask of ``x`` if it is a ``Sequence``.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> jl.Delay(1).apply({}, {}, jnp.array([[1, 2, 3]]))[0].tolist()
    [[0, 1, 2]]
    """

    def window(x: jax.Array | jax.ShapeDtypeStruct) -> TimeWindow:
        arguments.one_array(x, SIGNAL, least_rank=2)
        return TimeWindow(steps + 1, 1, steps, 0)

    def run(params: Params, x: jax.Array, mask: jax.Array | None, has_context: bool) -> jax.Array:
        if not has_context:
            edges = [(steps if axis == 1 else 0, 0, 0) for axis in range(x.ndim)]
            x = jax.lax.pad(x, jax.numpy.zeros((), x.dtype), edges)
        return x[:, : x.shape[1] - steps]

    return windowed_layer(no_params, WindowedOp(window, run))
