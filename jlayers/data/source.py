"""What a source of batches is, and the positions that it is resumed from."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from typing import Any, Protocol

from ..base import arguments
from ..base.errors import DataError
from ..base.specs import format_short
from ..base.types import PyTree

# A list and not a tuple: it goes through the JSON of a checkpoint, and comes back as a list.
Position = list[Any]


class Source(Protocol):
    """Batches that can be read from any position on; ``Batches``, and what ``as_source`` returns.

    A position is a list of JSON values: the number of the epoch, and how many batches of it were
    read; grain's loaders add the state of their iterator. The position after the last batch of an
    epoch is the start of the next epoch.

    Attributes:
      start: the position before the first batch.
      rereads: whether ``read`` can be called again.
    """

    @property
    def start(self) -> Position: ...

    @property
    def rereads(self) -> bool: ...

    def read(
        self, position: Position | None = None, epochs: int | None = None
    ) -> Iterator[tuple[PyTree, Position]]:
        """(batch, position after it), from ``position`` to the end of ``epochs`` epochs in all."""
        ...


def parse_position(position: object, num_extra: int = 0) -> tuple[int, int, list[Any]]:
    """Epoch, index, and up to ``num_extra`` other entries of what a user or a file gave.

    Raises:
      DataError: if it is not a position.
    """
    if isinstance(position, list | tuple) and 2 <= len(position) <= 2 + num_extra:
        # `operator.index` takes NumPy's integers, and refuses floats.
        with contextlib.suppress(TypeError):
            epoch, index = (operator.index(number) for number in position[:2])
            if epoch >= 0 and index >= 0:
                return epoch, index, list(position[2:])
    raise DataError(
        "invalid position in the data",
        expected="[epoch, index], two ints of at least 0" + (", and a state" if num_extra else ""),
        got=format_short(position),
    )


def check_epochs(epochs: int | None) -> int | None:
    # Zero epochs would be a source without a batch, which is refused everywhere else.
    return None if epochs is None else arguments.positive("epochs", epochs)


def past_end(epoch: int, index: int, count: int) -> DataError:
    """The error for a position after the last batch of its epoch."""
    return DataError(
        f"the position [{epoch}, {index}] is past the end of the data",
        expected=f"an index of at most {count}: epoch {epoch} has {count} batches",
        hint="use the data that the position is of, in batches of the same size",
    )
