"""MaxUnpool: the values of a MaxPool back where they were."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ... import core
from ...base import arguments
from ...base.arguments import EdgeSizes, Sizes
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.specs import format_spec
from ...core.padding import amounts_of
from ..conv.base import IMAGE, spread_padding
from ..shape.base import per_row


@factory
def MaxUnpool(
    window_shape: Sizes | None = None,
    *,
    strides: Sizes | None = None,
    cropping: EdgeSizes = 0,
    sizes: Sizes | None = None,
) -> Layer:
    """An image of zeros with the values of a ``MaxPool(indices=True)`` where they were.

    Its size is the one that the windows cover, or ``sizes``. Where the pool's strides left pixels
    over, or where it had ``ceil_mode``, that is another one: then ``sizes`` are needed, for an
    index counts the pixels of the rows of the image.

    Args:
      window_shape, strides: those of the pool.
      cropping: its padding, which is cut off here, as for ``Fold``; an int, or one or a (low, high)
        for each spatial axis.
      sizes: of the image, an int for all spatial axes or one for each, in place of these.

    Shapes:
      x: a tuple (y, indices): (batch, *spatial, channels) and integers of that shape, the places in
      the image in row-major order.
      y: (batch, *sizes, channels), of the dtype of ``y``. Windows that overlap may have one largest
      value; it is there once.

    Raises:
      LayerError: with neither or both of ``window_shape`` and ``sizes``, for anything but such a
        pair, and for a ``Sequence``.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([1.0, 5.0, 4.0, 2.0]).reshape(1, 4, 1)
    >>> there_and_back = jl.serial(jl.MaxPool(2, indices=True), jl.MaxUnpool(2))
    >>> there_and_back.apply({}, {}, x)[0].ravel().tolist()
    [0.0, 5.0, 4.0, 0.0]
    """
    if (window_shape is None) == (sizes is None):
        raise LayerError("takes window_shape or sizes", hint="MaxUnpool(2), or MaxUnpool(sizes=64)")

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
        edges = amounts_of(window, window, steps, spread_padding(cropping, rank))
        axes = zip(pooled, window, steps, edges, strict=True)
        return tuple((n - 1) * s + k - low - high for n, k, s, (low, high) in axes)

    return per_row(unpool)
