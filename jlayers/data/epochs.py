"""Python's iterables as sources: what can be read again, and what can be read once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..base.errors import DataError
from .positions import Position, beyond, checked, checked_epochs

_END = object()


class Epochs:
    """What can be opened anew for each epoch.

    It is resumed by reading up to the position again. One batch is read ahead, to know which one
    is the last of an epoch.

    Args:
      opened: the iterable of an epoch's batches.
    """

    rereads = True
    # How many entries a position may have beside epoch and index.
    further = 0

    def __init__(self, opened: Callable[[int], Iterable[Any]]):
        self._opened = opened

    @property
    def start(self) -> Position:
        return [0, 0]

    def read(
        self, position: Position | None = None, epochs: int | None = None
    ) -> Iterator[tuple[Any, Position]]:
        epoch, index, further = checked(self.start if position is None else position, self.further)
        return self._read(epoch, index, further, checked_epochs(epochs))

    def _read(
        self, epoch: int, index: int, further: list[Any], epochs: int | None
    ) -> Iterator[tuple[Any, Position]]:
        while epochs is None or epoch < epochs:
            batches = self._from(epoch, index, further)
            batch, after = next(batches, (_END, further))
            if batch is _END and not index:
                raise _nothing(epoch)
            for following, then in batches:
                index += 1
                yield batch, [epoch, index, *after]
                batch, after = following, then
            if batch is not _END:
                yield batch, [epoch + 1, 0]
            epoch, index, further = epoch + 1, 0, []

    def _from(self, epoch: int, index: int, further: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
        """The epoch's batches after the first ``index``, with further entries of the position."""
        iterator = iter(self._opened(epoch))
        skip(iterator, epoch, index)
        return zip(iterator, itertools.repeat([]))


class Once:
    """An iterator: one epoch, read once. A fresh one is resumed by reading up to the position."""

    rereads = False

    def __init__(self, iterator: Iterator[Any]):
        self._iterator: Iterator[Any] | None = iterator

    @property
    def start(self) -> Position:
        return [0, 0]

    def read(
        self, position: Position | None = None, epochs: int | None = None
    ) -> Iterator[tuple[Any, Position]]:
        epoch, index, _ = checked(self.start if position is None else position)
        checked_epochs(epochs)
        if epoch:
            raise DataError(
                f"the position is in epoch {epoch}, and an iterator has one epoch, number 0",
                got=str([epoch, index]),
            )
        if self._iterator is None:
            raise DataError(
                "the data is an iterator, which can be read once, and was",
                hint="a list, or a function of the epoch that gives a new iterator",
            )
        iterator, self._iterator = self._iterator, None
        return self._read(iterator, index)

    def _read(self, iterator: Iterator[Any], index: int) -> Iterator[tuple[Any, Position]]:
        skip(iterator, 0, index)
        start = index
        for batch in iterator:
            index += 1
            yield batch, [0, index]
        if not index and not start:
            raise _nothing(0)


def skip(iterator: Iterator[Any], epoch: int, count: int) -> None:
    found = sum(1 for _ in itertools.islice(iterator, count))
    if found < count:
        raise beyond(epoch, count, found) if found else _nothing(epoch)


def _nothing(epoch: int) -> DataError:
    again = "a list, or a function of the epoch that gives a new iterator"
    return DataError(
        f"the data gave no batch in epoch {epoch}",
        expected="an iterable with a batch in it, each time it is read",
        hint=again if epoch else None,
    )
