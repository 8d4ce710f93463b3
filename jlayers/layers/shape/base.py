"""What layers share that put together all values of a row of the batch."""

from __future__ import annotations

from collections.abc import Callable

import jax

from ...base.constructors import no_params, pure
from ...base.errors import LayerError
from ...base.layer import Layer
from ...base.sequence import Sequence
from ...base.sequence_mode import SequenceMode
from ...base.specs import format_spec
from ...base.types import Params, PyTree


def per_row(function: Callable[[jax.Array], PyTree]) -> Layer:
    """The layer of a function that rearranges each row of the batch, whatever its steps.

    It refuses a ``Sequence``: afterwards the mask could not say which values are padding.
    """

    def apply(params: Params, x: jax.Array | Sequence) -> PyTree:
        # A mode of its own and not per step, or the wrapper would hand over the values alone.
        if isinstance(x, Sequence):
            raise LayerError(
                "would put padding and steps of a Sequence together",
                got=format_spec(x),
                hint="each_step(layer) for what each step holds; GlobalAvgPool() for one row",
            )
        return function(x)

    return pure(
        no_params,
        apply,
        sequence_mode=SequenceMode("whole"),
        # A block of a stream holds a part of a row, and the result is of the whole row.
        stream="it puts all steps of a row together",
    )
