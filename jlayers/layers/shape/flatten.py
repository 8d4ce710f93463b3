"""Flatten: several neighbouring axes in one."""

from __future__ import annotations

import math

import jax

from ...base import arguments
from ...base.arguments import Integer
from ...base.constructors import no_params, pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence_mode import SequenceMode
from ...base.specs import format_spec
from ...base.types import Params
from .base import per_row


@factory
def Flatten(start: Integer = 1, end: Integer = -1) -> Layer:
    """The axes from ``start`` to ``end`` in one; all but the batch by default.

    Args:
      start, end: the first and the last of them, counted from either end.

    Shapes:
      x: (batch, ...). y: (batch, product of the other axes), of the dtype of ``x``; with other
      ``start`` and ``end``, the axes before and after them stay.

    Raises:
      LayerError: for an input without these axes, and for a ``Sequence`` whose time is one of them:
        its padding would get lost among the values.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.Flatten(), jl.spec((8, 5, 5, 3))).shape
    (8, 75)
    >>> jl.out_spec(jl.Flatten(2), jl.spec((8, 5, 5, 3))).shape
    (8, 5, 15)
    """

    def flatten(x: jax.Array) -> jax.Array:
        arguments.one_array(x, "(batch, ...)", least_rank=1)
        rank = len(x.shape)
        # Of vectors, a batch of scalars, there is nothing else to flatten: (batch, 1).
        if (start, end, rank) == (1, -1, 1):
            return x.reshape(x.shape[0], 1)
        (first, last) = (axis + rank if axis < 0 else axis for axis in (start, end))
        if not 0 <= first <= last < rank:
            raise LayerError(f"there are no axes from {start} to {end}", got=format_spec(x))
        # Not -1, which has no answer where another axis has size 0.
        size = math.prod(x.shape[first : last + 1])
        return x.reshape(*x.shape[:first], size, *x.shape[last + 1 :])

    if start == 1:
        return per_row(flatten)

    def apply(params: Params, x: jax.Array) -> jax.Array:
        return flatten(x)

    # Behind time each step is flattened by itself: that is found out.
    return pure(no_params, apply, sequence_mode=SequenceMode.UNKNOWN)
