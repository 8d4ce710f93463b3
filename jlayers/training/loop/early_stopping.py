"""Early stopping, as a function of the records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from ...base import arguments, processes
from ...base.errors import TrainingError, public_api, public_init
from ...base.specs import format_short
from ...checkpoint import CheckpointManager
from ...inspection.donation import copied
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
      restore_best: ``fit`` returns the state of the best evaluation, whatever ended it. It is
        copied at each evaluation, so that there are up to two more states on the device. One from
        before a resumption is read from the checkpoints, if they still have it.

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
    restore_best: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric:
            raise TrainingError(f"metric must be a metric's name, got {format_short(self.metric)}")
        arguments.positive("patience", self.patience)
        arguments.number("min_delta", self.min_delta)
        if self.mode not in ("min", "max"):
            raise TrainingError(f"mode must be 'min' or 'max', got {format_short(self.mode)}")
        arguments.flag("restore_best", self.restore_best)
        # Other metrics are read some steps later, when the state is another one.
        if self.restore_best and not self.metric.startswith(_EVAL):
            raise TrainingError(
                "restore_best needs a metric of an evaluation",
                expected=f"a name that begins with {_EVAL!r}",
                got=repr(self.metric),
            )

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

    def __init__(self, rule: EarlyStopping, evaluate_every: int | None = None):
        self._rule = rule
        self.every = evaluate_every if rule.restore_best else None
        # (step, state): of the last evaluation, and of the best one.
        self._evaluated: tuple[int, Any] | None = None
        self._kept: tuple[int, Any] | None = None

    def on_step(self, step: int, state: Any) -> None:
        self._evaluated = step, copied(state)

    def best_state(
        self, last: Any, records: list[Record], checkpoints: CheckpointManager | None
    ) -> Any:
        """The state of the best evaluation; with a warning the last one where it is gone."""
        # A loop with nothing to do has not called ``on_start``.
        self.on_start(0, records)
        if self._best_step is None or (self._kept and self._kept[0] == self._best_step):
            return self._kept[1] if self._kept else last
        # From before a resumption.
        if checkpoints is not None and self._best_step in checkpoints.steps():
            return checkpoints.restore(last, self._best_step).tree
        processes.warn_once(
            f"the best state, of step {self._best_step}, was not kept, and the last is returned\n"
            f"  CheckpointManager(..., best=1, metric={self._rule.metric!r}) keeps it in a file, "
            "where a checkpoint is due at the same step as the evaluation"
        )
        return last

    def on_start(self, step: int, records: list[Record]) -> str | None:
        # From the records alone, each time: a rollback takes some of them back.
        self._best: float | None = None
        self._best_step: int | None = None
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
            self._best, self._best_step, self._since = value, record.step, 0
            if self._evaluated is not None and self._evaluated[0] == record.step:
                self._kept = self._evaluated
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
