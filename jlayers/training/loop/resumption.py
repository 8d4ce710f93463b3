"""What a loop keeps of itself in a checkpoint, so that it goes on as if it had never ended."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...checkpoint import CheckpointManager
from ...data import Position, Source
from ..record import Record
from ..step import Step, TrainStep
from .metrics import Tally

# Records that every checkpoint keeps; of the older ones it keeps those with an evaluation.
_RECENT = 10_000


class Kept(NamedTuple):
    """A moment of a run.

    Attributes:
      run: its state.
      step: steps taken in all.
      position: in the data, after the last batch that was used.
      records: all so far.
      sums: of the metrics since the last record, with their count, as JSON has them; or None.
    """

    run: Any
    step: int
    position: Position
    records: list[Record]
    sums: dict[str, Any] | None


def save(checkpoints: CheckpointManager, kept: Kept, tally: Tally, looked: int, step: Step) -> None:
    """Copies what is to be kept to the host, and has it written.

    Args:
      checkpoints: where.
      kept: the moment; its sums are the tally's.
      tally: on the host.
      looked: the last step at which all that was due was done.
      step: a ``TrainStep`` tells of its model.
    """
    # A float32 is a float64 as it is, and JSON keeps every float64.
    sums = {name: value.item() for name, value in tally.sums.items()}
    last = kept.records[-1] if kept.records else None
    # An evaluation of another step would make this one best, or not.
    metrics = {
        name: value
        for name, value in (last.metrics if last else {}).items()
        if not name.startswith("eval/") or (last and last.step == kept.step)
    }
    checkpoints.save(
        kept.step,
        kept.run,
        position=kept.position,
        metrics=metrics,
        history=_rows(kept.records),
        extra={"sums": sums, "counted": int(tally.counted), "looked": looked},
        model=step.model if isinstance(step, TrainStep) else None,
    )


def _rows(records: list[Record]) -> list[list[Any]]:
    """The last records as JSON has them, and of those before them the evaluations."""
    old = records[:-_RECENT]
    evaluations = [r for r in old if any(name.startswith("eval/") for name in r.metrics)]
    return [list(record) for record in evaluations + records[-_RECENT:]]


def restored(checkpoints: CheckpointManager | None, source: Source, like: Any) -> Kept | None:
    """The newest moment that was kept whole, or None where nothing was."""
    if checkpoints is None:
        return None
    checkpoints.wait()
    if not checkpoints.steps():
        return None
    found = checkpoints.restore(like, fallback=True)
    if "sums" not in found.extra:  # not of a loop: the user's own
        position = list(source.start) if found.position is None else found.position
        return Kept(found.tree, found.step, position, [], None)
    records = [Record(*row) for row in found.history]
    return Kept(found.tree, found.step, found.position, records, found.extra)


def with_sums(tally: Tally, sums: dict[str, Any] | None) -> Tally:
    """The tally that goes on with what was summed up before; anew where the metrics are others."""
    if sums is None or sums["sums"].keys() != tally.sums.keys():
        return tally
    kept = {name: np.asarray(value, tally.sums[name].dtype) for name, value in sums["sums"].items()}
    return tally._replace(counted=np.int32(sums["counted"]), sums=kept)
