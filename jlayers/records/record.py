"""What a training loop reports of a stretch of its steps."""

from __future__ import annotations

from collections.abc import Sequence
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


def first_new_step(step: int, records: Sequence[Record]) -> int:
    """The first step whose record a loop that starts at ``step``, with ``records``, may make.

    Of this and later steps a log must hold nothing from before: a loop that was ended between two
    records may have made one there, and its steps are in the next record.
    """
    return (records[-1].step if records else step) + 1
