"""Downsample: every so many steps of a signal."""

from __future__ import annotations

import jax

from ...base import arguments
from ...base.arguments import Positive
from ...base.constructors import no_params
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Params
from ...core.time_windows import TimeWindow
from ..conv.base import WindowedOp, windowed_layer
from .base import SIGNAL


@factory
def Downsample(strides: Positive) -> Layer:
    """``y[t] = x[strides * t]``, without a filter: ``Resample(1, strides)`` has one.

    Args:
      strides: steps from one output to the next.

    Shapes:
      x: (batch, time, ...). y: (batch, ceil(time / strides), ...), of the dtype of ``x``.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> jl.Downsample(2).apply({}, {}, jnp.array([[1, 2, 3, 4, 5]]))[0].tolist()
    [[1, 3, 5]]
    """

    def window(x: jax.Array | jax.ShapeDtypeStruct) -> TimeWindow:
        arguments.one_array(x, SIGNAL, least_rank=2)
        return TimeWindow(1, strides, 0, 0)

    def run(params: Params, x: jax.Array, mask: jax.Array | None, has_context: bool) -> jax.Array:
        return x[:, ::strides]

    return windowed_layer(no_params, WindowedOp(window, run))
