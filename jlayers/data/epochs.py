"""Python's iterables as sources: those that can be read again, and those that can be read once."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..base.errors import DataError
from ..base.types import PyTree
from .ownership import owned_items, owns_its_items
from .source import Position, check_epochs, parse_position, past_end

_END = object()


class Epochs:
    """A source of what can be opened again for each epoch.

    It is resumed by reading up to the position again. One batch is read ahead, to know which one
    is the last of an epoch.

    Args:
      open_epoch: the iterable of an epoch's batches.
    """

    rereads = True
    owns_memory = True
    # How many entries a position may have after epoch and index.
    num_extra = 0

    def __init__(self, open_epoch: Callable[[int], Iterable[PyTree]]):
        self._open_epoch = open_epoch

    @property
    def start(self) -> Position:
        return [0, 0]

    def read(
        self, position: Position | None = None, epochs: int | None = None
    ) -> Iterator[tuple[PyTree, Position]]:
        start = self.start if position is None else position
        return self._read(*parse_position(start, self.num_extra), check_epochs(epochs))

    def _read(
        self, epoch: int, index: int, extra: list[Any], epochs: int | None
    ) -> Iterator[tuple[PyTree, Position]]:
        while epochs is None or epoch < epochs:
            # One ahead: the position after the last batch is the start of the next epoch.
            batches = self._read_epoch(epoch, index, extra)
            batch, after = next(batches, (_END, extra))
            # At the end of a resumed epoch there may be none left; in a new one there must be.
            if batch is _END and not index:
                raise _no_batch(epoch)
            for next_batch, next_after in batches:
                index += 1
                yield batch, [epoch, index, *after]
                batch, after = next_batch, next_after
            if batch is not _END:
                yield batch, [epoch + 1, 0]
            epoch, index, extra = epoch + 1, 0, []

    def _read_epoch(
        self, epoch: int, index: int, extra: list[Any]
    ) -> Iterator[tuple[PyTree, list[Any]]]:
        """The epoch's batches after the first ``index``, with extra entries of their positions."""
        iterator = iter(self._open_epoch(epoch))
        skip(iterator, epoch, index)
        return zip(owned_items(iterator), itertools.repeat([]))


class OneEpoch:
    """An iterator as a source: one epoch, read once; a new one is resumed by reading up to it."""

    rereads = False
    owns_memory = True

    def __init__(self, iterator: Iterator[PyTree]):
        self._iterator: Iterator[PyTree] | None = iterator

    @property
    def start(self) -> Position:
        return [0, 0]

    def read(
        self, position: Position | None = None, epochs: int | None = None
    ) -> Iterator[tuple[PyTree, Position]]:
        epoch, index, _ = parse_position(self.start if position is None else position)
        check_epochs(epochs)
        if epoch:
            raise DataError(
                f"the position is in epoch {epoch}, and an iterator has only epoch 0",
                got=str([epoch, index]),
            )
        if self._iterator is None:
            raise DataError(
                "the data is an iterator, which was read already",
                hint="a list, or a function of the epoch that returns a new iterator",
            )
        # Given up now, not at the end: a second read would take batches from the first.
        iterator, self._iterator = self._iterator, None
        return self._read(iterator, index)

    def _read(self, iterator: Iterator[PyTree], index: int) -> Iterator[tuple[PyTree, Position]]:
        skip(iterator, 0, index)
        start = index
        for batch in owned_items(iterator):
            index += 1
            yield batch, [0, index]
        if not index and not start:
            raise _no_batch(0)


owns_its_items(Epochs._read)
owns_its_items(OneEpoch._read)


def skip(iterator: Iterator[PyTree], epoch: int, count: int) -> None:
    """Reads ``count`` batches; raises if there are fewer."""
    # Read and dropped: nothing else is known of an iterable.
    found = sum(1 for _ in itertools.islice(iterator, min(count, sys.maxsize)))
    if found < count:
        raise past_end(epoch, count, found) if found else _no_batch(epoch)


def _no_batch(epoch: int) -> DataError:
    # The usual mistake is an iterable that is exhausted after one pass.
    again = "a list, or a function of the epoch that returns a new iterator"
    return DataError(
        f"the data has no batch in epoch {epoch}",
        expected="an iterable with at least one batch, each time it is read",
        hint=again if epoch else None,
    )
