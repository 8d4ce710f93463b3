"""The batches of the last steps of a loop, so that one of them can be found again."""

from __future__ import annotations

import collections
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import jax

from .ownership import read_owned
from .source import Position, Source

T = TypeVar("T")
# Bytes of batches that are kept in memory, of data that cannot be read again.
_MEMORY = 1 << 28
# Seconds to wait for a reader on another thread, which may itself be waiting for its source.
_PATIENCE = 60.0


class FoundBatch(NamedTuple):
    """A batch, and the positions in the data before and after it.

    Attributes:
      batch: None where it is not known any more.
      missing: why not.
    """

    batch: Any
    position: Position
    after: Position
    missing: str | None = None


class _Call(NamedTuple):
    """A call of the compiled step: the steps taken after it, and the position in the data then."""

    step: int
    position: Position
    batch: Any


class RecentBatches:
    """The calls whose records were not read yet, so that the batch of a step can be found again.

    Where the data can be read again, an occasional call is enough.

    Attributes:
      keeps: whether each call has to be added with its batch, since the data cannot be read again;
        if batches are large, the newest ones are kept.
    """

    def __init__(self, source: Source, step: int, position: Position, stacks: bool):
        self.keeps = not source.rereads
        self._source, self._stacks = source, stacks
        self._calls = collections.deque([_Call(step, position, None)])
        self._most: int | None = None
        self._lock = threading.Lock()

    def add(self, step: int, position: Position, batch: Any = None) -> None:
        """After a call."""
        self._calls.append(_Call(step, position, batch if self.keeps else None))
        if not self.keeps:
            return
        if self._most is None:
            size = sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(batch))
            self._most = max(1, _MEMORY // max(size, 1))
        if len(self._calls) > self._most:
            # The batch alone: an error can still say at which position of the data it was.
            old = len(self._calls) - self._most - 1
            self._calls[old] = self._calls[old]._replace(batch=None)

    def forget(self, step: int) -> None:
        """All steps before ``step`` were looked at; the last of them can still be asked for."""
        # One call before the step stays: later steps are found by counting from it.
        while len(self._calls) > 1 and self._calls[1].step < step:
            self._calls.popleft()

    def reading(self, items: Iterator[T]) -> Iterator[T]:
        """The items of a reader on another thread, which stands still while ``find`` reads.

        Two readers of a source may share more than it seems: a buffer, a file, a generator of
        random numbers.
        """
        end = object()
        while True:
            with self._lock:
                item = next(items, end)
            if item is end:
                return
            yield item  # type: ignore[misc]

    def find(self, step: int) -> FoundBatch:
        """The batch of the step with this number.

        It raises nothing: it is asked for to explain an error, which must not be lost.
        """
        before = next((call for call in reversed(self._calls) if call.step <= step), self._calls[0])
        past = step - before.step
        if not self.keeps:
            try:
                return self._read(before.position, past)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # that of a signal, after which the loop ends, too
                why = "there are fewer batches" if isinstance(error, StopIteration) else repr(error)
                return _found(None, before.position, past, f"not read again: {why}")
        batch = next((call.batch for call in self._calls if call.step > step), None)
        if self._stacks and batch is not None:
            batch = jax.tree.map(lambda leaf: leaf[past], batch)
        missing = None if batch is not None else "too large to be kept, and cannot be read again"
        return _found(batch, before.position, past, missing)

    def _read(self, position: Position, past: int) -> FoundBatch:
        if not self._lock.acquire(timeout=_PATIENCE):
            return _found(None, position, past, "not read again: the source is busy")
        try:
            batches = read_owned(self._source, position)
            for _ in range(past):
                _, position = next(batches)
            batch, after = next(batches)
            return FoundBatch(batch, position, after)
        finally:
            self._lock.release()


def _found(batch: Any, position: Position, past: int, missing: str | None) -> FoundBatch:
    # Without the state that a loader adds to its positions: it is that of another batch.
    epoch, index = position[:2]
    return FoundBatch(batch, [epoch, index + past], [epoch, index + past + 1], missing)
