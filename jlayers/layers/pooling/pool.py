"""Pool: the values of each window put together by any function."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ...base import arguments
from ...base.arguments import CausalPadding, Number, Sizes
from ...base.constructors import no_params
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence import Sequence
from ...base.specs import format_spec
from ...base.types import Params
from ..conv.base import WindowedOp, windowed_layer
from .base import PoolWindow


@factory
def Pool(
    combine: Callable[[jax.Array, jax.Array], jax.Array],
    start: Number,
    window_shape: Sizes,
    *,
    strides: Sizes | None = None,
    padding: CausalPadding = "VALID",
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Layer:
    """``combine`` of all values of each window, two at a time, in any order.

    ``MaxPool``, ``AvgPool``, ``MinPool``, ``SumPool`` and ``LpPool`` are faster; there the first of
    equal values has the gradient.

    Args:
      combine: ``combine(a, b)``, elementwise, associative and commutative, such as ``lax.mul``.
      start: what changes nothing (1 for ``lax.mul``): the value of padding, that of a ``Sequence``
        too. It may be infinite.
      window_shape, strides, padding, dilation, ceil_mode: as for ``MaxPool``.

    Shapes:
      x: (batch, *spatial, channels). y: (batch, *spatial', channels), of the dtype of ``x``.

    Raises:
      LayerError: for an input of another rank, a window larger than the padded input, and a
        ``combine`` whose result has another shape or dtype.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> from jax import lax
    >>> x = jnp.array([3.0, 1.0, 2.0, 5.0]).reshape(1, 4, 1)
    >>> jl.Pool(lax.mul, 1, 2).apply({}, {}, x)[0].ravel().tolist()
    [3.0, 10.0]
    """
    arguments.function("combine", combine, "a, b")
    window = PoolWindow(window_shape, strides, padding, dilation, ceil_mode, counts_padding=True)

    def run(params: Params, x: jax.Array, mask: jax.Array | None, has_context: bool) -> jax.Array:
        windows = window.for_input(x, has_context)
        if mask is not None:
            x = Sequence(x, mask).fill(start)
        return windows.fold(x, np.asarray(start, x.dtype), checked)

    def checked(a: jax.Array, b: jax.Array) -> jax.Array:
        y = jnp.asarray(combine(a, b))
        if y.shape != a.shape or y.dtype != a.dtype:
            raise LayerError(
                "combine(a, b) must have the shape and dtype of a and b",
                expected=format_spec(a),
                got=format_spec(y),
            )
        return y

    return windowed_layer(no_params, WindowedOp(window.time_window, run, needs_mask=True))
