"""What a training loop reports of a stretch of its steps."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """The metrics of the steps since the record before.

    Attributes:
      step: the number of steps taken in total, those before a resumption included.
      epoch: the number of complete passes over the data.
      metrics: means over the steps since the last record, by name; the metrics of an evaluation are
        named "eval/..." and are there only where one was due.
      seconds: since the loop started, in this process.
      steps_per_second: since the last record.
    """

    step: int
    epoch: int
    metrics: dict[str, float]
    seconds: float
    steps_per_second: float
