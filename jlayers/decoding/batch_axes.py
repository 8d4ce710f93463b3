"""Which axis of each array of a stream's carry is that of its rows."""

from __future__ import annotations

from collections.abc import Callable

import jax

from ..base.errors import LayerError
from ..base.specs import format_spec
from ..base.types import Carry

# From what makes a carry of so many rows, and their number: what places one.
PlaceCarry = Callable[[Callable[[int], Carry], int], Callable[[Carry], Carry]]


def as_it_is(start: Callable[[int], Carry], rows: int) -> Callable[[Carry], Carry]:
    """The ``PlaceCarry`` where there is no mesh."""
    return lambda carry: carry


def batch_axes(start: Callable[[int], Carry], rows: int) -> dict[str, object]:
    """For each array of a carry the axis of its rows, -1 where it has none.

    It need not be the first: under ``repeat`` that is the axis of the copies. It is the one that
    grows with the batch.

    Args:
      start: the carry before the first step, of so many rows.
      rows: of the batch.

    Raises:
      LayerError: where several axes grow, or one by another number.
    """

    def axis(small: jax.ShapeDtypeStruct, large: jax.ShapeDtypeStruct) -> int:
        # By shapes for two batch sizes, and not by position: any layer's carry is understood.
        grown = [i for i, n in enumerate(small.shape) if large.shape[i] != n]
        if len(grown) > 1 or any(small.shape[i] != rows for i in grown):
            raise LayerError(
                "an array of the carry must have one axis for the batch",
                got=f"{format_spec(small)}, {format_spec(large)}",
            )
        return grown[0] if grown else -1

    small, large = (jax.eval_shape(lambda n=n: start(n)) for n in (rows, rows + 1))
    axes: dict[str, object] = jax.tree.map(axis, small, large)
    return axes
