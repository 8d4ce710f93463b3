"""Reshape: the same values in another shape, row by row of the batch."""

from __future__ import annotations

import math

import jax

from ...base import arguments
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.specs import format_short, format_spec
from ...core.dtypes import reshape_rows
from .base import per_row


@factory
def Reshape(shape: tuple[int, ...]) -> Layer:
    """Another shape for each row of the batch.

    Args:
      shape: the new shape without the batch axis; one entry may be -1, and is then inferred.

    Shapes:
      x: (batch, ...). y: (batch, *shape), of the dtype of ``x``.

    Raises:
      LayerError: where the sizes do not match, and for a ``Sequence``, whose padding would get lost
        among the values.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.Reshape((8, -1)), jl.spec((32, 64))).shape
    (32, 8, 8)
    """
    if not isinstance(shape, tuple | list):
        raise LayerError(f"shape must be a tuple of ints, got {format_short(shape)}")
    row_shape = tuple(arguments.integer("a size in shape", n) for n in shape)
    # When the layer is built: no input could make such a shape right.
    if any(n < -1 for n in row_shape) or row_shape.count(-1) > 1:
        raise LayerError(f"shape must hold sizes and at most one -1, got {row_shape}")

    def reshape(x: jax.Array) -> jax.Array:
        arguments.one_array(x, "(batch, ...)", least_rank=1)
        # By hand: jnp.reshape would infer -1 from the whole array, the batch included.
        size, known = math.prod(x.shape[1:]), math.prod(n for n in row_shape if n != -1)
        fits = known > 0 and size % known == 0 if -1 in row_shape else size == known
        if not fits:
            raise LayerError(
                f"{size} values in a row of the batch do not fill {row_shape}",
                got=format_spec(x),
                hint="the shape leaves out the batch axis, which stays as it is",
            )
        sizes = (size // known if n == -1 else n for n in row_shape)
        return reshape_rows(x, (x.shape[0], *sizes))

    return per_row(reshape)
