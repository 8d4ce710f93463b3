"""Where a run stands in its data: what a source of batches is, and its positions."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from typing import Any, Protocol

from ..base import arguments
from ..base.errors import DataError
from ..base.specs import format_short

Position = list[Any]


class Source(Protocol):
    """Batches that can be read from any position on; what ``as_source`` gives, and ``Batches`` is.

    A position is a list that JSON keeps: the number of the epoch, and how many batches of that
    epoch were read; for grain's loaders the state of their iterator comes third. After the last
    batch of an epoch it is the beginning of the next one.

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
    ) -> Iterator[tuple[Any, Position]]:
        """(batch, position after it), from ``position`` to the end of ``epochs`` epochs in all."""
        ...


def checked(position: Any, further: int = 0) -> tuple[int, int, list[Any]]:
    """Epoch, index, and up to ``further`` other entries of what a user or a file gave."""
    if isinstance(position, list | tuple) and 2 <= len(position) <= 2 + further:
        with contextlib.suppress(TypeError):
            epoch, index = (operator.index(number) for number in position[:2])
            if epoch >= 0 and index >= 0:
                return epoch, index, list(position[2:])
    raise DataError(
        "the position in the data is none",
        expected="[epoch, index], two ints of at least 0" + (", and a state" if further else ""),
        got=format_short(position),
    )


def checked_epochs(epochs: Any) -> int | None:
    return None if epochs is None else arguments.positive("epochs", epochs)


def beyond(epoch: int, index: int, count: int) -> DataError:
    return DataError(
        f"the position [{epoch}, {index}] is beyond the end of the data",
        expected=f"an index of at most {count}: epoch {epoch} has {count} batches",
        hint="the data that the position comes from, in batches of the same size",
    )
