"""The batches of the last steps of a loop, so that one of them can be found again."""

from __future__ import annotations

import collections
from typing import Any, NamedTuple

import jax

from .source import Position, Source

# Bytes of batches that are kept in memory, of data that cannot be read again.
_MEMORY = 1 << 28


class FoundBatch(NamedTuple):
    """A batch, and the positions in the data before and after it."""

    batch: Any
    position: Position
    after: Position


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
        """Drops the calls up to the one after which ``step`` steps were taken."""
        # One call at or before the step stays: later steps are found by counting from it.
        while len(self._calls) > 1 and self._calls[1].step <= step:
            self._calls.popleft()

    def find(self, step: int) -> FoundBatch:
        """The batch of the step with this number."""
        before = next(call for call in reversed(self._calls) if call.step <= step)
        past = step - before.step
        if not self.keeps:
            position = before.position
            batches = self._source.read(position)
            for _ in range(past):
                _, position = next(batches)
            batch, after = next(batches)
            return FoundBatch(batch, position, after)
        # Of an iterator, which has one epoch: positions in it are counted, not read.
        epoch, index, *rest = before.position
        batch = next(call.batch for call in self._calls if call.step > step)
        if self._stacks and batch is not None:
            batch = jax.tree.map(lambda leaf: leaf[past], batch)
        return FoundBatch(batch, [epoch, index + past, *rest], [epoch, index + past + 1, *rest])
