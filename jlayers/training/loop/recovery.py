"""How a loop continues: from a checkpoint, and after a step that was not finite.

How to read this file: a ``LoopSnapshot`` is all that a loop needs to continue. ``Checkpointing`` is
the hook that saves snapshots, ``restore_snapshot`` reads the newest. ``Recovery`` decides what
follows a step that was not finite, by ``fit(non_finite=)``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ...base import processes
from ...base.errors import CheckpointError, truncate
from ...checkpoint import CheckpointManager, Restored, read_manifest
from ...data import Source
from ...data.recent_batches import RecentBatches
from ...records.record import Record
from ..step import Step, TrainStep
from .hooks import FitResult, Hook, LoopSnapshot
from .metrics import MetricAccumulator
from .non_finite import NonFiniteError, diagnose

# Records that every checkpoint holds; of the older ones it holds those with an evaluation, or each
# checkpoint of a long training would be larger than the one before.
_RECENT = 10_000
# Rollbacks to one checkpoint, and warnings of steps that were skipped. What fails again
# after each return to a checkpoint most likely fails by its state, not by a batch; and all skipped
# steps are counted by the metric "skipped", after the warnings have said why.
_ROLLBACKS, _WARNINGS = 3, 3
# The entries of a checkpoint's ``extra`` that are the loop's, others are the user's: the sums
# since the last record, and which data its position is in.
_SUMS, _DATA = "jlayers.fit", "jlayers.data"


def sums_of(accumulator: MetricAccumulator, looked: int, unfinished: bool) -> dict[str, Any]:
    """The sums of a snapshot, from an accumulator on the host."""
    # float32 to float64 is exact, and JSON keeps every float64.
    sums = {name: value.item() for name, value in accumulator.sums.items()}
    found = {"sums": sums, "counted": int(accumulator.count), "looked": looked}
    return found | ({"unfinished": True} if unfinished else {})


def saved_sums(extra: dict[str, Any]) -> dict[str, Any] | None:
    """The sums of a snapshot in what a checkpoint holds beside; None where no loop saved it."""
    sums = extra.get(_SUMS, extra)  # version 0.1 had them among the user's own entries
    kinds = {"sums": dict, "counted": int, "looked": int}
    ours = isinstance(sums, dict) and all(isinstance(sums.get(k), kinds[k]) for k in kinds)
    return sums if ours else None


def saved_accumulator(saved: dict[str, Any]) -> MetricAccumulator:
    """The accumulator of a snapshot, where there is no batch to know the metrics by."""
    sums = {
        name: np.asarray(value, np.int32 if isinstance(value, int) else np.float32)
        for name, value in saved["sums"].items()
    }
    return MetricAccumulator(np.int32(0), np.int32(saved["counted"]), sums, np.int32(-1))


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

    def __init__(self, manager: CheckpointManager, every: int, step: Step, source: Source):
        self.manager, self.snapshot_every, self._source = manager, every, source
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
            extra={_SUMS: snapshot.sums} | fingerprint_of(self._source),
            model=self._model,
        )

    def on_end(self, result: FitResult) -> None:
        self.manager.cut_short(result.stopped in ("SIGTERM", "interrupt", "error"))


def rows_of(records: list[Record]) -> list[list[Any]]:
    """The last records as JSON holds them, and of those before them the ones with evaluations."""
    old = records[:-_RECENT]
    evaluations = [r for r in old if any(name.startswith("eval/") for name in r.metrics)]
    return [list(record) for record in evaluations + records[-_RECENT:]]


def restore_snapshot(
    manager: CheckpointManager | None, source: Source, like: Any, step: Step | None = None
) -> LoopSnapshot | None:
    """The newest snapshot that was saved and is not damaged, or None without any.

    With a ``step`` it warns where the snapshot is of other data, or of another model.
    """
    if manager is None:
        return None
    # A write may be in progress: the newest checkpoint is the one that it makes.
    manager.wait()
    if not manager.steps():
        return None
    try:
        found = manager.restore(like, fallback=True)
    except CheckpointError as error:
        if "does not match the template" in error.problem:  # words of those who gave one
            error.problem = error.problem.replace("the template", "the state that was given")
            error.hint = "another folder for another model or optimiser; resume=False starts again"
        raise
    if step is not None:
        _compare(found, source, step)
    sums = saved_sums(found.extra)
    if sums is None:  # a checkpoint that the user saved, not a loop
        position = list(source.start) if found.position is None else found.position
        return LoopSnapshot(found.tree, found.step, position, [], None)
    records = [Record(*row) for row in found.history]
    return LoopSnapshot(found.tree, found.step, found.position, records, sums)


def fingerprint_of(source: Source) -> dict[str, Any]:
    """What tells a source from others, for those that know: an entry of a checkpoint."""
    fingerprint = getattr(source, "fingerprint", None)
    return {} if fingerprint is None else {_DATA: fingerprint}


def _compare(found: Restored, source: Source, step: Step) -> None:
    """Warns where a checkpoint fits, and yet is of something else."""
    now, then = fingerprint_of(source).get(_DATA), found.extra.get(_DATA)
    if isinstance(now, dict) and isinstance(then, dict) and now != then:
        changed = [name for name in now if now[name] != then.get(name)]
        processes.warn_once(
            f"the checkpoint of step {found.step} is of other data, and its position "
            f"{found.position} is one in them\n"
            + "\n".join(f"  {name}: {then.get(name)} became {now[name]}" for name in changed)
            + "\n  fit(..., checkpoints=) with another folder starts again"
        )
    manifest = read_manifest(found.path)
    if not isinstance(step, TrainStep) or manifest.model is None:
        return
    own, other = description(repr(step.model)), description(manifest.model)
    # Another version may write the same model differently.
    if own != other and manifest.versions.get("jlayers") == sys.modules["jlayers"].__version__:
        processes.warn_once(
            f"the checkpoint of step {found.step} is of another model with parameters of the same "
            f"shapes\n  then: {truncate(other)}\n  now:  {truncate(own)}"
        )


def description(text: str) -> str:
    """A repr without the lines of functions, which move when a file is edited, and addresses."""
    return re.sub(r":\d+>|0x[0-9a-f]+", ">", " ".join(text.split()))


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
            # Its number stays in the accumulator until the next record.
            self._reported = bad
            self._skipped += 1
            if self._skipped > _WARNINGS:
                return None
        found, tree = recent.find(bad), state()
        error = NonFiniteError(found, bad, tree, diagnose(self._step, tree, found.batch))
        if self.policy == "skip":
            processes.warn_once(str(error))
            return None
        return error

    def roll_back(self, error: NonFiniteError, source: Source, like: Any) -> LoopSnapshot | None:
        """The newest snapshot, if any, continuing in the data after the batch of the error.

        Raises:
          NonFiniteError: the same, where the loop went back to this snapshot too often.
        """
        if error.batch is None:  # where the data goes on is not known
            return None
        self._rollbacks += 1
        snapshot = restore_snapshot(self._manager, source, like)
        if snapshot is None:
            error.add_note("no rollback: there is no checkpoint yet")
            return None
        if self._rollbacks > _ROLLBACKS:
            error.add_note(f"no rollback: {_ROLLBACKS} times in a row")
            raise error
        processes.warn_once(f"{error}\n  The loop goes back to step {snapshot.step}.")
        return snapshot._replace(position=error.after)
