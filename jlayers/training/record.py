"""What a training loop tells of a stretch of its steps."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """The metrics of the steps since the record before.

    Attributes:
      step: the number of steps taken in all, those before a resumption included.
      epoch: the number of whole passes over the data.
      metrics: means over the steps since the last record, by name; what an evaluation gave goes by
        "eval/..." and is there only where there was one.
      seconds: since the loop began, in this process.
      steps_per_second: since the last record.
    """

    step: int
    epoch: int
    metrics: dict[str, float]
    seconds: float
    steps_per_second: float
