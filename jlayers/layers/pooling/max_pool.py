"""MaxPool: the largest value of each window."""

from __future__ import annotations

import jax

from ... import core
from ...base.arguments import CausalPadding, Sizes
from ...base.constructors import no_params
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence import Sequence
from ...base.types import Params
from ...core.dtypes import min_value
from ...core.pool_indices import indices_of_max, window_places
from ..conv.base import WindowedOp, windowed_layer
from ..shape.base import per_row
from .base import PoolWindow, check_known_sizes


@factory
def MaxPool(
    window_shape: Sizes,
    *,
    strides: Sizes | None = None,
    padding: CausalPadding = "VALID",
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    indices: bool = False,
    method: str | None = None,
) -> Layer:
    """The largest value of each window; the padding never is.

    Args:
      window_shape: an int for all spatial axes, or one for each.
      strides: likewise; the window by default, so that windows do not overlap.
      padding: ``"VALID"``, ``"SAME"``, ``"CAUSAL"`` (an output depends on no later step of the
        first spatial axis), an int, or a (low, high) for each spatial axis.
      dilation: likewise; steps between the elements of a window.
      ceil_mode: whether a last stride that is not whole has an output too, of a window that reaches
        beyond the padding, as in PyTorch.
      indices: whether to give the place of each value too, in its channel in row-major order; for
        ``MaxUnpool``. Of equal values it is the first one's.
      method: ``"axes"`` or ``"direct"`` (XLA's own); by default the faster where it runs.

    Shapes:
      x: (batch, *spatial, channels). y: (batch, *spatial', channels), of the dtype of ``x``;
      with ``indices`` the pair of it and int32 of that shape.

    Raises:
      LayerError: for an input of another rank, a window larger than the padded input, and padding
        as large as the window. With ``indices`` for a ``Sequence``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.MaxPool(2), jl.spec((8, 28, 28, 32))).shape
    (8, 14, 14, 32)
    """
    window = PoolWindow(window_shape, strides, padding, dilation, ceil_mode)

    def run(params: Params, x: jax.Array, mask: jax.Array | None, has_context: bool) -> jax.Array:
        if mask is not None:
            # Padded steps hold zeros, which may be larger than every valid value.
            x = Sequence(x, mask).fill(min_value(x.dtype))
        return core.max_pool(x, **window.for_input(x, has_context)._asdict(), method=method)

    def run_with_indices(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        windows = window.for_input(x)
        check_known_sizes(x)
        y = core.max_pool(x, **windows._asdict(), method=method)
        return y, indices_of_max(x, window_places(windows, x.shape[1:-1]))

    if indices:
        return per_row(run_with_indices)
    # The mask of the context too: its zeros could be larger than all valid values.
    return windowed_layer(no_params, WindowedOp(window.time_window, run, needs_mask=True))
