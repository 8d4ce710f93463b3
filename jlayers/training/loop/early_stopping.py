"""Early stopping, as a function of the records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass

from ...base import arguments
from ...base.errors import TrainingError, public_api, public_init
from ...base.specs import format_short
from ...records.record import Record
from .hooks import Hook

_EVAL = "eval/"


@public_init("EarlyStopping")
@dataclass(frozen=True)
class EarlyStopping:
    """Stop when a metric has not improved for a number of evaluations.

    It holds no state: the records alone decide, so that a resumed training, which has the records
    from before, stops where the uninterrupted one does.

    Args:
      metric: its name, for example ``"eval/loss"``. Records without it are skipped.
      patience: the number of evaluations in a row without a better value after which to stop.
      min_delta: by how much more than this a value has to be better than the best, in the units of
        the metric.
      mode: ``"min"`` where less is better, ``"max"`` where more is. NaN is never better.

    Raises:
      TrainingError: for an invalid argument.

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

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric:
            raise TrainingError(f"metric must be a metric's name, got {format_short(self.metric)}")
        arguments.positive("patience", self.patience)
        arguments.number("min_delta", self.min_delta)
        if self.mode not in ("min", "max"):
            raise TrainingError(f"mode must be 'min' or 'max', got {format_short(self.mode)}")

    @public_api
    def should_stop(self, records: Iterable[Record]) -> bool:
        """Whether to stop after the last of these records.

        Args:
          records: all records in order, or all that hold the metric.

        Raises:
          TrainingError: where no record holds the metric, although there was an evaluation that
            would have given it.
        """
        return StopEarly(self).on_start(0, list(records)) is not None


class StopEarly(Hook):
    """``fit(early_stopping=)``: follows the records, and ends the loop."""

    def __init__(self, rule: EarlyStopping):
        self._rule = rule

    def on_start(self, step: int, records: list[Record]) -> str | None:
        # From the records alone, each time: a rollback takes some of them back.
        self._best: float | None = None
        self._since, self._names = 0, set[str]()
        for record in records:
            self._follow(record)
        return self._reason()

    def on_record(self, record: Record) -> str | None:
        self._follow(record)
        return self._reason()

    def _follow(self, record: Record) -> None:
        self._names |= record.metrics.keys()
        if self._rule.metric not in record.metrics:
            return
        value, best = record.metrics[self._rule.metric], self._best
        sign = 1 if self._rule.mode == "min" else -1
        # The first value is the best so far unless it is NaN, which does not equal itself.
        if value == value if best is None else sign * (best - value) > self._rule.min_delta:
            self._best, self._since = value, 0
        else:
            self._since += 1

    def _reason(self) -> str | None:
        metric, names = self._rule.metric, self._names
        # The first records come before the first evaluation.
        early = metric.startswith(_EVAL) and not any(name.startswith(_EVAL) for name in names)
        if names and metric not in names and not early:
            same = f"{_EVAL}{metric}"
            raise TrainingError(
                f"EarlyStopping waits for {metric!r}, which is not among the metrics",
                expected="one of " + ", ".join(map(repr, sorted(names))),
                got=repr(metric),
                hint=f"EarlyStopping({same!r}, ...)" if same in names else None,
            )
        return "early stopping" if self._since >= self._rule.patience else None
