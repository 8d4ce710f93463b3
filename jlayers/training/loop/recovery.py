"""How a loop continues: from a checkpoint, and after a step that was not finite.

How to read this file: a ``LoopSnapshot`` is all that a loop needs to continue. ``Checkpointing`` is
the hook that saves snapshots, ``restore_snapshot`` reads the newest. ``RecentBatches`` finds the
batch of a step that was not finite; ``Recovery`` decides what follows, by ``fit(non_finite=)``.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ...base.errors import warn
from ...checkpoint.manager import CheckpointManager
from ...data.positions import Position, Source
from ..non_finite import NonFiniteError, diagnose
from ..step import Step, TrainStep
from .hooks import Hook
from .metrics import MetricAccumulator, Record

# Records that every checkpoint holds; of the older ones it holds those with an evaluation.
_RECENT = 10_000
# Bytes of batches that are kept in memory, of data that cannot be read again.
_MEMORY = 1 << 28
# Rollbacks to one checkpoint, and warnings of steps that were skipped.
_ROLLBACKS, _WARNINGS = 3, 3


class LoopSnapshot(NamedTuple):
    """A moment of a loop, from which it can continue.

    Attributes:
      state: of training.
      step: the number of steps taken in total.
      position: in the data, after the last batch that was used.
      records: all so far.
      sums: of the metrics since the last record ("sums", "counted"), and the last step at which
        everything due was done ("looked"), as JSON holds them; None at the start.
    """

    state: Any
    step: int
    position: Position
    records: list[Record]
    sums: dict[str, Any] | None


def sums_of(accumulator: MetricAccumulator, looked: int) -> dict[str, Any]:
    """The sums of a snapshot, from an accumulator on the host."""
    # float32 to float64 is exact, and JSON keeps every float64.
    sums = {name: value.item() for name, value in accumulator.sums.items()}
    return {"sums": sums, "counted": int(accumulator.count), "looked": looked}


def with_sums(accumulator: MetricAccumulator, saved: dict[str, Any] | None) -> MetricAccumulator:
    """The accumulator with the sums of a snapshot, where they are of the same metrics."""
    if saved is None or saved["sums"].keys() != accumulator.sums.keys():
        return accumulator
    sums = {
        name: np.asarray(value, accumulator.sums[name].dtype)
        for name, value in saved["sums"].items()
    }
    return accumulator._replace(count=np.int32(saved["counted"]), sums=sums)


class Checkpointing(Hook):
    """``fit(checkpoints=)``: saves every snapshot."""

    def __init__(self, manager: CheckpointManager, every: int, step: Step):
        self.manager, self.snapshot_every = manager, every
        self._model = step.model if isinstance(step, TrainStep) else None

    def on_snapshot(self, snapshot: LoopSnapshot) -> None:
        last = snapshot.records[-1] if snapshot.records else None
        # The evaluation of another step says nothing of which checkpoint is best.
        metrics = {
            name: value
            for name, value in (last.metrics if last else {}).items()
            if not name.startswith("eval/") or (last and last.step == snapshot.step)
        }
        self.manager.save(
            snapshot.step,
            snapshot.state,
            position=snapshot.position,
            metrics=metrics,
            history=rows_of(snapshot.records),
            extra=snapshot.sums,
            model=self._model,
        )


def rows_of(records: list[Record]) -> list[list[Any]]:
    """The last records as JSON holds them, and of those before them the ones with evaluations."""
    old = records[:-_RECENT]
    evaluations = [r for r in old if any(name.startswith("eval/") for name in r.metrics)]
    return [list(record) for record in evaluations + records[-_RECENT:]]


def restore_snapshot(
    manager: CheckpointManager | None, source: Source, like: Any
) -> LoopSnapshot | None:
    """The newest snapshot that was saved and is not damaged, or None without any."""
    if manager is None:
        return None
    manager.wait()
    if not manager.steps():
        return None
    found = manager.restore(like, fallback=True)
    if "sums" not in found.extra:  # a checkpoint that the user saved, not a loop
        position = list(source.start) if found.position is None else found.position
        return LoopSnapshot(found.tree, found.step, position, [], None)
    records = [Record(*row) for row in found.history]
    return LoopSnapshot(found.tree, found.step, found.position, records, found.extra)


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
        if not self.keeps:
            self._calls.append(_Call(step, position, None))
            return
        if self._most is None:
            size = sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(batch))
            self._most = max(1, _MEMORY // max(size, 1))
        self._calls.append(_Call(step, position, batch))
        if len(self._calls) > self._most:
            old = len(self._calls) - self._most - 1
            self._calls[old] = self._calls[old]._replace(batch=None)

    def forget(self, step: int) -> None:
        """Drops the calls up to the one after which ``step`` steps were taken."""
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
        epoch, index, *rest = before.position
        batch = next(call.batch for call in self._calls if call.step > step)
        if self._stacks and batch is not None:
            batch = jax.tree.map(lambda leaf: leaf[past], batch)
        return FoundBatch(batch, [epoch, index + past, *rest], [epoch, index + past + 1, *rest])


class Recovery:
    """What follows a step that was not finite.

    Args:
      step: the step of the loop.
      policy: ``fit(non_finite=)``.
      manager: where "roll back" finds its checkpoints.
    """

    def __init__(self, step: Step, policy: str, manager: CheckpointManager | None):
        self._step, self.policy, self._manager = step, policy, manager
        self._rollbacks = self._skipped = 0
        self._reported = -1

    def saved(self) -> None:
        """A snapshot was saved: the next rollback is the first to it."""
        self._rollbacks = 0

    def error_of(
        self, bad: int, state: Callable[[], Any], recent: RecentBatches
    ) -> NonFiniteError | None:
        """The error for the first non-finite step, None where there is none or it is skipped.

        Args:
          bad: the number of the step, -1 for none.
          state: the state as a tree: that before the step, unless the policy is "skip".
          recent: the batches since the last record.
        """
        if bad < 0 or self.policy == "ignore" or bad == self._reported:
            return None
        if self.policy == "skip":
            self._reported = bad
            self._skipped += 1
            if self._skipped > _WARNINGS:
                return None
        found, tree = recent.find(bad), state()
        error = NonFiniteError(found, bad, tree, diagnose(self._step, tree, found.batch))
        if self.policy == "skip":
            warn(str(error))
            return None
        return error

    def roll_back(self, error: NonFiniteError, source: Source, like: Any) -> LoopSnapshot | None:
        """The newest snapshot, if any, continuing in the data after the batch of the error.

        Raises:
          NonFiniteError: the same, where the loop went back to this snapshot too often.
        """
        self._rollbacks += 1
        snapshot = restore_snapshot(self._manager, source, like)
        if snapshot is None:
            error.add_note("no rollback: there is no checkpoint yet")
            return None
        if self._rollbacks > _ROLLBACKS:
            error.add_note(f"no rollback: {_ROLLBACKS} times in a row")
            raise error
        warn(f"{error}\n  The loop goes back to step {snapshot.step}.")
        return snapshot._replace(position=error.after)
