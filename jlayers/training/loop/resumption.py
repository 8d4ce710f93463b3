"""What a loop keeps of itself in a checkpoint, so that it goes on as if it had never ended."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..checkpoints.folder import Checkpoints
from ..data.positions import Position
from ..steps.step import Step, TrainStep
from .record import Record
from .tally import Tally

# Records among which each metric has its newest value: evaluations are rarer than others.
_RECENT = 50


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


def save(checkpoints: Checkpoints, kept: Kept, tally: Tally, step: Step) -> None:
    """Copies what is to be kept to the host, and has it written.

    Args:
      checkpoints: where.
      kept: the moment; its sums are the tally's.
      tally: on the host.
      step: a ``TrainStep`` tells of its model.
    """
    # A float32 is a float64 as it is, and JSON keeps every float64.
    sums = {name: value.item() for name, value in tally.sums.items()}
    newest: dict[str, float] = {}
    for record in kept.records[-_RECENT:]:
        newest |= record.metrics
    checkpoints.save(
        kept.step,
        kept.run,
        position=kept.position,
        metrics=newest,
        history=[list(record) for record in kept.records],
        extra={"sums": sums, "count": int(tally.counted)},
        model=step.model if isinstance(step, TrainStep) else None,
    )


def restored(checkpoints: Checkpoints | None, like: Any) -> Kept | None:
    """The newest moment that was kept whole, or None where nothing was."""
    if checkpoints is None or not checkpoints.steps():
        return None
    found = checkpoints.restore(like, fallback=True)
    records = [Record(*row) for row in found.history]
    return Kept(found.tree, found.step, found.position, records, found.extra)


def with_sums(tally: Tally, sums: dict[str, Any] | None) -> Tally:
    """The tally that goes on with what was summed up before; anew where the metrics are others."""
    if sums is None or sums["sums"].keys() != tally.sums.keys():
        return tally
    kept = {name: np.asarray(value, tally.sums[name].dtype) for name, value in sums["sums"].items()}
    return tally._replace(counted=np.int32(sums["count"]), sums=kept)
