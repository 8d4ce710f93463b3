"""Flatten and Reshape: the same numbers in another shape, row by row of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax

from ...base import arguments
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence import Sequence
from ...base.sequence_mode import SequenceMode
from ...base.specs import (
    Params,
    State,
    format_short,
    format_spec,
)


@factory
def Flatten() -> Layer:
    """All axes but the batch in one.

    Shapes:
      x: (batch, ...). y: (batch, product of the other axes), of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.Flatten(), jl.spec((8, 5, 5, 3))).shape
    (8, 75)
    """

    def flatten(x: jax.Array) -> jax.Array:
        arguments.one_array(x, "(batch, ...)", least_rank=1)
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    return _of_rows(flatten)


@factory
def Reshape(shape: tuple[int, ...]) -> Layer:
    """Another shape for each row of the batch.

    Args:
      shape: the new shape without the batch axis; one entry may be -1, and is worked out.

    Shapes:
      x: (batch, ...). y: (batch, *shape), of the dtype of ``x``.

    Raises:
      LayerError: where the sizes do not match.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.Reshape((8, -1)), jl.spec((32, 64))).shape
    (32, 8, 8)
    """
    wanted = _shape_argument(shape)

    def reshape(x: jax.Array) -> jax.Array:
        arguments.one_array(x, "(batch, ...)", least_rank=1)
        size, known = math.prod(x.shape[1:]), math.prod(n for n in wanted if n != -1)
        fits = known > 0 and size % known == 0 if -1 in wanted else size == known
        if not fits:
            raise LayerError(
                f"{size} values in a row of the batch do not fill {wanted}",
                got=format_spec(x),
                hint="the shape leaves out the batch axis, which stays as it is",
            )
        return x.reshape(x.shape[0], *(size // known if n == -1 else n for n in wanted))

    return _of_rows(reshape)


def _of_rows(function: Callable[[jax.Array], jax.Array]) -> Layer:
    """A layer that puts together what stands in one row of the batch, whatever its step."""

    def init(key: Any, x: Any) -> tuple[Params, State]:
        return {}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: Any, train: bool
    ) -> tuple[jax.Array, State]:
        if isinstance(x, Sequence):
            raise LayerError(
                "would put padding and steps of a Sequence together",
                got=format_spec(x),
                hint="each_step(layer) for what each step holds; GlobalAvgPool() for one row",
            )
        return function(x), state

    return Layer(
        init,
        apply,
        sequence_mode=SequenceMode("whole"),
        stream="it puts all steps of a row together",
    )


def _shape_argument(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple | list):
        raise LayerError(f"shape must be a tuple of ints, got {format_short(shape)}")
    wanted = tuple(arguments.integer("a size in shape", n) for n in shape)
    if any(n < -1 for n in wanted) or wanted.count(-1) > 1:
        raise LayerError(f"shape must hold sizes and at most one -1, got {wanted}")
    return wanted
