"""LpPool: the p-norm of each window."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ... import core
from ...base import arguments
from ...base.arguments import AboveZero, CausalPadding, Sizes
from ...base.constructors import no_params
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Params
from ...core.dtypes import at_least_float32
from ..conv.base import WindowedOp, windowed_layer
from .base import PoolWindow


@factory
def LpPool(
    p: AboveZero,
    window_shape: Sizes,
    *,
    strides: Sizes | None = None,
    padding: CausalPadding = "VALID",
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    method: str | None = None,
) -> Layer:
    """``sum(|x| ** p) ** (1 / p)`` of each window; padding adds nothing.

    One is the sum of the sizes, and for larger p it comes nearer to ``MaxPool``, as long as the sum
    of the powers is in the range of float32 (for p = 40, sizes up to 9).

    Args:
      p: the exponent, above 0.
      window_shape, strides, padding, dilation, ceil_mode, method: as for ``MaxPool``.

    Shapes:
      x: (batch, *spatial, channels), floating. y: (batch, *spatial', channels), of the dtype of
      ``x``; sums are taken in float32 at least. The gradient of a window of zeros is zero.

    Raises:
      LayerError: for an input of another rank, and a window larger than the padded input.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([3.0, 4.0, 0.0, 0.0]).reshape(1, 4, 1)
    >>> jl.LpPool(2, 2).apply({}, {}, x)[0].ravel().tolist()
    [5.0, 0.0]
    """
    window = PoolWindow(window_shape, strides, padding, dilation, ceil_mode, counts_padding=True)

    def run(params: Params, x: jax.Array, mask: jax.Array | None, has_context: bool) -> jax.Array:
        windows = window.for_input(x, has_context)
        arguments.floating(x)
        size = jnp.abs(x).astype(at_least_float32(x.dtype))
        # Zero to a power below 1 has no slope: it is taken of ones, and set to zero afterwards.
        powers = jnp.where(size > 0, jnp.where(size > 0, size, 1) ** p, 0)
        total = core.sum_pool(powers, **windows._asdict(), method=method)
        root = jnp.where(total > 0, jnp.where(total > 0, total, 1) ** (1 / p), 0)
        return root.astype(x.dtype)

    return windowed_layer(no_params, WindowedOp(window.time_window, run))
