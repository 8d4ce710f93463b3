"""MinPool: the smallest value of each window."""

from __future__ import annotations

import jax

from ... import core
from ...base.arguments import CausalPadding, Sizes
from ...base.constructors import no_params
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence import Sequence
from ...base.types import Params
from ...core.dtypes import max_value
from ..conv.base import WindowedOp, windowed_layer
from .base import PoolWindow


@factory
def MinPool(
    window_shape: Sizes,
    *,
    strides: Sizes | None = None,
    padding: CausalPadding = "VALID",
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    method: str | None = None,
) -> Layer:
    """The smallest value of each window; the padding never is.

    Args:
      window_shape, strides, padding, dilation, ceil_mode, method: as for ``MaxPool``.

    Shapes:
      x: (batch, *spatial, channels), floating or signed. y: (batch, *spatial', channels), of the
      dtype of ``x``.

    Raises:
      LayerError: for an input of another rank, a window larger than the padded input, and padding
        as large as the window.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([3.0, 1.0, 2.0, 5.0]).reshape(1, 4, 1)
    >>> jl.MinPool(2).apply({}, {}, x)[0].ravel().tolist()
    [1.0, 2.0]
    """
    window = PoolWindow(window_shape, strides, padding, dilation, ceil_mode)

    def run(params: Params, x: jax.Array, mask: jax.Array | None, has_context: bool) -> jax.Array:
        windows = window.for_input(x, has_context)
        if mask is not None:
            # Padded steps hold zeros, which may be smaller than every valid value.
            x = Sequence(x, mask).fill(max_value(x.dtype))
        return core.min_pool(x, **windows._asdict(), method=method)

    # The mask of the context too: its zeros could be smaller than all valid values.
    return windowed_layer(no_params, WindowedOp(window.time_window, run, needs_mask=True))
