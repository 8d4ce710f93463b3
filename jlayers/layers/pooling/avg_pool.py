"""AvgPool: the mean of each window."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ... import core
from ...base import arguments
from ...base.arguments import AboveZero, CausalPadding, Sizes
from ...base.constructors import no_params
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence import Sequence
from ...base.types import Params
from ...core.dtypes import at_least_float32
from ..conv.base import WindowedOp, windowed_layer
from .base import PoolWindow


@factory
def AvgPool(
    window_shape: Sizes,
    *,
    strides: Sizes | None = None,
    padding: CausalPadding = "VALID",
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    # As in Keras (docs/notes/0004-defaults.md).
    count_include_pad: bool = False,
    divisor: AboveZero | None = None,
    method: str | None = None,
) -> Layer:
    """The mean of each window.

    Args:
      window_shape, strides, padding, dilation, ceil_mode, method: as for ``MaxPool``.
      count_include_pad: whether padding counts in the mean. False, as in Keras: a window at the
        border is the mean of the pixels in it. True as in PyTorch and Flax. What ``ceil_mode``
        adds never counts.
      divisor: what each sum is divided by, in place of the number of pixels.

    Shapes:
      x: (batch, *spatial, channels), floating. y: (batch, *spatial', channels), of the dtype of
      ``x``; sums are taken in float32 at least.

    Raises:
      LayerError: for an input of another rank, a window larger than the padded input, and padding
        as large as the window that does not count. A ``Sequence`` is refused for ``ceil_mode`` with
        ``count_include_pad``, whose counts would be those of the longest row.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.AvgPool((2, 1)), jl.spec((8, 28, 28, 32))).shape
    (8, 14, 28, 32)
    """
    window = PoolWindow(window_shape, strides, padding, dilation, ceil_mode, count_include_pad)

    def run(params: Params, x: jax.Array, mask: jax.Array | None, has_context: bool) -> jax.Array:
        # With padding counted a padded step counts as the zero that the values hold.
        if mask is None or count_include_pad or divisor is not None:
            if mask is not None and ceil_mode and divisor is None:
                raise LayerError(
                    "ceil_mode with count_include_pad counts by the length of the longest row",
                    hint="count_include_pad=False for a Sequence",
                )
            return mean(x, has_context, count_include_pad)
        # The mean over valid steps is the pool of the values over the pool of the mask.
        valid = Sequence(x, mask)
        ones = jnp.ones((*x.shape[:-1], 1), at_least_float32(x.dtype))
        total, count = (
            mean(part, has_context, True) for part in (valid.fill(), valid._with(ones).fill())
        )
        # A window of padding alone gives 0 and not 0 / 0.
        count = jnp.where(count > 0, count, jnp.ones_like(count))
        y = total.astype(count.dtype) / jnp.broadcast_to(count, total.shape)
        return y.astype(x.dtype)

    def mean(x: jax.Array, has_context: bool, include_pad: bool) -> jax.Array:
        windows = window.for_input(x, has_context)
        # Here and not in init, whose abstract pass runs this too.
        arguments.floating(x)
        counted = include_pad and window.counted_padding(x)
        return core.avg_pool(
            x,
            **windows._asdict(),
            count_include_pad=counted,
            divisor=divisor,
            method=method,
        )

    return windowed_layer(no_params, WindowedOp(window.time_window, run, needs_mask=True))
