"""Lookahead: a signal without its first steps."""

from __future__ import annotations

import jax

from ...base import arguments
from ...base.arguments import NonNegativeInteger
from ...base.constructors import no_params
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Params
from ...core.time_windows import TimeWindow
from ..conv.base import WindowedOp, window_fits, windowed_layer
from .base import SIGNAL


@factory
def Lookahead(steps: NonNegativeInteger) -> Layer:
    """``y[t] = x[t + steps]``: the first ``steps`` are dropped.

    Behind a causal layer it undoes that layer's delay.

    Args:
      steps: by how many.

    Shapes:
      x: (batch, time, ...). y: (batch, time - steps, ...), of the dtype of ``x``. A row of n valid
      steps of a ``Sequence`` has n - steps.

    Raises:
      LayerError: for a signal of fewer steps.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> jl.Lookahead(1).apply({}, {}, jnp.array([[1, 2, 3]]))[0].tolist()
    [[2, 3]]
    """

    def window(x: jax.Array | jax.ShapeDtypeStruct) -> TimeWindow:
        arguments.one_array(x, SIGNAL, least_rank=2)
        window_fits(x, x.shape[1:2], (steps,), ("VALID",), "the lookahead")
        return TimeWindow(steps + 1, 1, 0, 0)

    def run(params: Params, x: jax.Array, mask: jax.Array | None, has_context: bool) -> jax.Array:
        window(x)
        return x[:, steps:]

    return windowed_layer(no_params, WindowedOp(window, run))
