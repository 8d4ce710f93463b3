"""Flatten: all axes but the batch in one."""

from __future__ import annotations

import math

import jax

from ...base import arguments
from ...base.factory import factory
from ...base.layer import Layer
from .base import per_row


@factory
def Flatten() -> Layer:
    """All axes but the batch in one.

    Shapes:
      x: (batch, ...). y: (batch, product of the other axes), of the dtype of ``x``.

    Raises:
      LayerError: for a scalar, and for a ``Sequence``, whose padding would get lost among the
        values.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.Flatten(), jl.spec((8, 5, 5, 3))).shape
    (8, 75)
    """

    def flatten(x: jax.Array) -> jax.Array:
        arguments.one_array(x, "(batch, ...)", least_rank=1)
        # Not reshape(batch, -1), which has no answer for a batch of size 0.
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    return per_row(flatten)
