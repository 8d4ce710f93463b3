"""MaxUnpool: the values of a MaxPool back where they were."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ... import core
from ...base import arguments
from ...base.arguments import CausalPadding, Sizes
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.specs import format_spec
from ..conv.base import IMAGE
from ..conv.padding import spread_padding
from ..shape.base import per_row


@factory
def MaxUnpool(
    window_shape: Sizes | None = None,
    *,
    strides: Sizes | None = None,
    padding: CausalPadding = "VALID",
    sizes: Sizes | None = None,
) -> Layer:
    """An image of zeros with the values of a ``MaxPool(indices=True)`` where they were.

    Its size is the smallest from which that pool makes the size of ``y``, or ``sizes``: several
    sizes have the same pool.

    Args:
      window_shape, strides, padding: those of the pool; the padding in numbers.
      sizes: of the image, an int for all spatial axes or one for each, in place of these.

    Shapes:
      x: a tuple (y, indices): (batch, *spatial, channels) and integers of that shape, the places in
      the image in row-major order.
      y: (batch, *sizes, channels), of the dtype of ``y``. Windows that overlap may have one largest
      value; it is there once.

    Raises:
      LayerError: with neither or both of ``window_shape`` and ``sizes``, for padding by name, for
        anything but such a pair, and for a ``Sequence``.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([1.0, 5.0, 4.0, 2.0]).reshape(1, 4, 1)
    >>> there_and_back = jl.serial(jl.MaxPool(2, indices=True), jl.MaxUnpool(2))
    >>> there_and_back.apply({}, {}, x)[0].ravel().tolist()
    [0.0, 5.0, 4.0, 0.0]
    """
    if (window_shape is None) == (sizes is None):
        raise LayerError("takes window_shape or sizes", hint="MaxUnpool(2), or MaxUnpool(sizes=64)")
    names = padding if isinstance(padding, tuple) else (padding,)
    if any(isinstance(name, str) and name != "VALID" for name in names):
        raise LayerError(f"padding {padding!r} does not say a size", hint="sizes=..., or numbers")

    def unpool(x: Any) -> jax.Array:
        if not isinstance(x, tuple | list) or len(x) != 2:
            raise LayerError(
                "takes a tuple (y, indices)",
                expected=f"{IMAGE}, and integers of that shape",
                got=format_spec(x),
                hint="MaxPool(window_shape, indices=True)",
            )
        y, indices = x
        arguments.one_array(y, IMAGE, least_rank=3)
        if indices.shape != y.shape or not jnp.issubdtype(indices.dtype, jnp.integer):
            raise LayerError(
                "the indices do not fit the values",
                expected=f"integers {list(y.shape)}",
                got=format_spec(indices),
            )
        return core.max_unpool(y, indices, image_sizes(y.shape[1:-1]))

    def image_sizes(pooled: tuple[int, ...]) -> tuple[int, ...]:
        rank = len(pooled)
        if sizes is not None:
            return arguments.spread("sizes", sizes, rank)
        assert window_shape is not None
        window = arguments.spread("window_shape", window_shape, rank)
        steps = window if strides is None else arguments.spread("strides", strides, rank)
        pads = [0 if isinstance(p, str) else sum(p) for p in spread_padding(padding, rank)]
        axes = zip(pooled, window, steps, pads, strict=True)
        return tuple((n - 1) * s + k - edges for n, k, s, edges in axes)

    return per_row(unpool)
