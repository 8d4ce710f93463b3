"""SumPool: the sum of each window."""

from __future__ import annotations

import jax

from ... import core
from ...base import arguments
from ...base.arguments import CausalPadding, Sizes
from ...base.constructors import no_params
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Params
from ..conv.base import WindowedOp, windowed_layer
from .base import PoolWindow


@factory
def SumPool(
    window_shape: Sizes,
    *,
    strides: Sizes | None = None,
    padding: CausalPadding = "VALID",
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    method: str | None = None,
) -> Layer:
    """The sum of each window; padding, that of a ``Sequence`` too, adds nothing.

    Args:
      window_shape, strides, padding, dilation, ceil_mode, method: as for ``MaxPool``.

    Shapes:
      x: (batch, *spatial, channels), floating. y: (batch, *spatial', channels), of the dtype of
      ``x``; sums are taken in float32 at least.

    Raises:
      LayerError: for an input of another rank, and a window larger than the padded input.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([3.0, 1.0, 2.0, 5.0]).reshape(1, 4, 1)
    >>> jl.SumPool(2).apply({}, {}, x)[0].ravel().tolist()
    [4.0, 7.0]
    """
    window = PoolWindow(window_shape, strides, padding, dilation, ceil_mode, counts_padding=True)

    def run(params: Params, x: jax.Array, mask: jax.Array | None, has_context: bool) -> jax.Array:
        windows = window.for_input(x, has_context)
        # Here and not in init, whose abstract pass runs this too.
        arguments.floating(x)
        return core.sum_pool(x, **windows._asdict(), method=method)

    return windowed_layer(no_params, WindowedOp(window.time_window, run))
