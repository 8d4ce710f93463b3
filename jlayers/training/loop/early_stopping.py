"""Early stopping, as a function of the records of a run."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

from ...base import arguments
from ...base.errors import JlayersError, TrainingError, public_api
from ...base.specs import format_short
from ..record import Record

_EVAL = "eval/"


class Waiting(NamedTuple):
    """How long a metric has not become better.

    Attributes:
      best: its best value so far, None before the first.
      since: evaluations since then.
      names: of all metrics that were seen.
    """

    best: float | None = None
    since: int = 0
    names: frozenset[str] = frozenset()


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when a metric has not become better for some evaluations.

    It holds no state: what it says is decided by the records alone, so that a run that was
    resumed, with the records of before, stops where the uninterrupted one does.

    Args:
      metric: its name, ``"eval/loss"`` say. Records without it are passed over.
      patience: the number of evaluations in a row without a better value after which to stop.
      min_delta: by how much more than this a value has to be better than the best, in the units of
        the metric.
      mode: ``"min"`` where less is better, ``"max"`` where more is. NaN is never better.

    Raises:
      TrainingError: where an argument is not what it has to be.

    >>> from jlayers import training
    >>> stopping = training.EarlyStopping("eval/loss", patience=2)
    >>> losses = [0.9, 0.5, 0.6, 0.7]
    >>> records = [
    ...     training.Record(100 * i, i, {"eval/loss": loss}, 1.0 * i, 100.0)
    ...     for i, loss in enumerate(losses, 1)
    ... ]
    >>> stopping.should_stop(records[:3]), stopping.should_stop(records)
    (False, True)
    """

    metric: str
    _: KW_ONLY
    patience: int
    min_delta: float = 0.0
    mode: str = "min"

    @public_api
    def __post_init__(self) -> None:
        try:
            if not isinstance(self.metric, str) or not self.metric:
                raise TrainingError(
                    f"metric must be a metric's name, got {format_short(self.metric)}"
                )
            arguments.positive("patience", self.patience)
            arguments.number("min_delta", self.min_delta)
            if self.mode not in ("min", "max"):
                raise TrainingError(f"mode must be 'min' or 'max', got {format_short(self.mode)}")
        except JlayersError as error:
            error.attribute_to("EarlyStopping")
            raise

    @public_api
    def should_stop(self, records: Iterable[Record]) -> bool:
        """Whether to stop after the last of these records.

        Args:
          records: all records of the run in order, or all that hold the metric.

        Raises:
          TrainingError: where no record holds the metric, and there was an evaluation which would
            have given it.
        """
        return self.is_over(functools.reduce(self.follow, records, Waiting()))

    def follow(self, waiting: Waiting, record: Record) -> Waiting:
        """Where the waiting stands after one more record."""
        names = waiting.names | record.metrics.keys()
        if self.metric not in record.metrics:
            return waiting._replace(names=names)
        value = record.metrics[self.metric]
        if self._better(value, waiting.best):
            return Waiting(value, 0, names)
        return Waiting(waiting.best, waiting.since + 1, names)

    def is_over(self, waiting: Waiting) -> bool:
        """Whether the patience is at its end."""
        self._check_known(waiting.names)
        return waiting.since >= self.patience

    def _better(self, value: float, best: float | None) -> bool:
        if best is None:
            return value == value  # not NaN
        gain = best - value if self.mode == "min" else value - best
        return gain > self.min_delta

    def _check_known(self, names: frozenset[str]) -> None:
        evaluated = any(name.startswith(_EVAL) for name in names)
        # The first records of a run come before its first evaluation.
        early = self.metric.startswith(_EVAL) and not evaluated
        if self.metric in names or not names or early:
            return
        same = f"{_EVAL}{self.metric}"
        raise TrainingError(
            f"EarlyStopping waits for {self.metric!r}, a metric that there is not",
            expected="one of " + ", ".join(map(repr, sorted(names))),
            got=repr(self.metric),
            hint=f"EarlyStopping({same!r}, ...)" if same in names else None,
        )
