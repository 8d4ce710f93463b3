"""The protocol by which ``fit`` does everything beside the steps, and hooks of its arguments.

How to read this file: ``Hook`` is the protocol; ``FitResult`` and ``LoopSnapshot`` are what it is
given; ``Schedule`` calls it. Hooks for ``evaluate=`` and ``progress=`` follow; those for
``checkpoints=`` and ``early_stopping=`` have files of their own. ``fit`` makes them, in one place.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from ...base import arguments
from ...base.errors import TrainingError
from ...base.specs import format_short
from ...data import Position
from ...records.progress import Progress
from ...records.record import Record
from ..short_repr import brief
from ..state import TrainState
from .signals import LONG_GRACE, interruptible

HookMetrics: TypeAlias = Mapping[str, jax.typing.ArrayLike]
Evaluate: TypeAlias = Callable[[Any], HookMetrics]

# Seconds between two looks at the progress, which draws at most every half second: so a drawing is
# never late by more than half of that.
_LOOK = 0.25


class FitResult(NamedTuple):
    """What ``fit`` returns.

    Attributes:
      state: the state after the last step.
      records: all records, those before a resumption included.
      step: the number of steps taken in total.
      position: in the data, after the last batch that was used.
      stopped: why it ended: "steps", "data" (the data is exhausted), "early stopping", "callback"
        (a hook returned True), the text that a hook returned, "interrupt" (Ctrl-C) or "error".
    """

    state: Any
    records: list[Record]
    step: int
    position: Position
    stopped: str

    def __repr__(self) -> str:
        state = self.state
        shown = repr(state) if isinstance(state, TrainState) else brief(state)
        count = f"{len(self.records)} record{'' if len(self.records) == 1 else 's'}"
        return (
            f"FitResult(stopped={self.stopped!r} at step {self.step}, {count}, "
            f"position={self.position}, state={shown})"
        )


class LoopSnapshot(NamedTuple):
    """A moment of a loop, from which it can continue.

    Attributes:
      state, step, position: as in ``FitResult``.
      records: all so far.
      sums: of the metrics since the last record ("sums", "counted"), and the last step at which
        everything due was done ("looked"), as JSON holds them; None at the start.
    """

    state: Any
    step: int
    position: Position
    records: list[Record]
    sums: dict[str, Any] | None


class Hook:
    """Everything that ``fit`` does besides taking steps is done by hooks.

    Override the methods you need; the others do nothing.

    No method is called between two steps at which nothing is due, so a hook costs a step nothing.
    Whatever a method raises ends the loop, which saves the state first.

    Attributes:
      every: ``on_step`` is called every so many steps, and after the last, but not where a signal
        ended the loop; never if None. With ``steps_per_call`` it comes after the call that reaches
        the multiple.
      snapshot_every: the same for ``on_snapshot``.

    >>> import jax, numpy as np, optax, jlayers as jl
    >>> from jlayers import training
    >>> class WeightNorm(training.Hook):
    ...     every = 100
    ...
    ...     def on_step(self, step, state):
    ...         return {"weight_norm": optax.tree.norm(state.params)}
    >>> x = np.ones((8, 2), np.float32)
    >>> step = training.train_step(jl.Dense(1), lambda y: y.mean(), optax.sgd(0.1))
    >>> state = step.start(jax.random.key(0), x)
    >>> fitted = training.fit(step, state, [(x,)], steps=200, progress=False, hooks=[WeightNorm()])
    >>> [sorted(record.metrics) for record in fitted.records]
    [['loss', 'weight_norm'], ['loss', 'weight_norm']]
    """

    every: int | None = None
    snapshot_every: int | None = None

    def on_start(self, step: int, records: list[Record]) -> str | None:
        """The loop starts at a step, or goes back to it, with all records before it.

        A text ends the loop before its first step, as one that ``on_record`` returns.
        """

    def on_step(self, step: int, state: Any) -> HookMetrics | None:
        """A multiple of ``every`` steps was taken.

        The state must not be kept: the next step uses up its memory. Metrics that are returned,
        scalars by name, join the record of this step; the loop waits for them. If a step
        was not finite, this stays the state before that step until the loop notices.
        """

    def on_record(self, record: Record) -> bool | str | None:
        """Called with each new record; the loop may be some steps past ``record.step`` already.

        True ends the loop, and so does a text, which becomes ``FitResult.stopped``.
        """

    def on_snapshot(self, snapshot: LoopSnapshot) -> None:
        """A multiple of ``snapshot_every`` steps was taken, or the loop ends, by an error too.

        The snapshot holds all that the loop needs to continue from here. All its steps are known to
        be finite, and all their records have been made. Its state must not be kept.
        """

    def on_end(self, result: FitResult) -> None:
        """The loop has ended, by an error too: ``result.stopped`` is "error" then."""

    def next_due(self, step: int) -> float:
        """The first step after ``step`` at which ``on_step`` is due, infinite for none."""
        return next_multiple(step, self.every)

    def __call__(self, record: Record) -> bool | str | None:
        """As ``on_record``: what takes records as a function takes hooks as well."""
        return self.on_record(record)


def next_multiple(step: int, every: int | None) -> float:
    """The first multiple of ``every`` after ``step``."""
    return math.inf if every is None else (step // every + 1) * every


@dataclass(eq=False)
class Scheduled:
    """When a hook is due next, and the steps at which it was called last."""

    hook: Hook
    due: float = 0
    snapshot_due: float = 0
    called: int = -1
    saved: int = -1


class Schedule:
    """The hooks of a loop, and when each is due."""

    def __init__(self, hooks: tuple[Hook, ...]):
        self._entries = [Scheduled(hook) for hook in hooks]

    def start(self, step: int, looked: int) -> None:
        """Continues from a step that is saved, with everything done that was due by ``looked``."""
        for entry in self._entries:
            entry.due = entry.hook.next_due(looked)
            entry.snapshot_due = next_multiple(looked, entry.hook.snapshot_every)
            entry.saved = step

    def save_again(self) -> None:
        """Marks the current step as not saved: its snapshot is no longer complete."""
        for entry in self._entries:
            entry.saved = -1

    def next_due(self) -> float:
        """The first step at which a hook is due."""
        return min((min(e.due, e.snapshot_due) for e in self._entries), default=math.inf)

    def on_start(self, step: int, records: list[Record]) -> str | None:
        reasons = [entry.hook.on_start(step, records) for entry in self._entries]
        return next(filter(None, reasons), None)

    def on_step(
        self, step: int, state: Callable[[], Any], last: bool = False
    ) -> HookMetrics | None:
        """Calls the hooks that are due; their metrics, None where none returned any.

        Args:
          state: makes the tree of the state, for each hook that needs it.
          last: at the end every hook is due that was not called at this step.
        """
        found: dict[str, jax.typing.ArrayLike] | None = None
        for entry in self._entries:
            if entry.due <= step or (last and entry.due < math.inf and entry.called != step):
                own = entry.hook.on_step(step, state())
                entry.called, entry.due = step, entry.hook.next_due(step)
                if own is not None:
                    found = (found or {}) | _checked_metrics(entry.hook, own, found or {})
        return found

    def for_snapshot(self, step: int, last: bool = False) -> list[Scheduled]:
        """The hooks that need a snapshot of this step; all of them at the end."""
        found = []
        for entry in self._entries:
            if last or entry.snapshot_due <= step:
                entry.snapshot_due = next_multiple(step, entry.hook.snapshot_every)
                # The end of a loop may be a multiple as well: no step is saved twice.
                if entry.hook.snapshot_every is not None and entry.saved != step:
                    found.append(entry)
        return found


class Evaluation(Hook):
    """``fit(evaluate=)``: its metrics, named "eval/..."."""

    def __init__(self, evaluate: Evaluate, every: int):
        self._evaluate, self.every = evaluate, every

    def on_step(self, step: int, state: Any) -> HookMetrics:
        return {f"eval/{name}": value for name, value in dict(self._evaluate(state)).items()}


interruptible(Evaluation.on_step, LONG_GRACE)


class ProgressBar(Hook):
    """``fit(progress=)``: shows the step every quarter of a second, and the newest metrics."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._shown = False
        self._looked: tuple[float, int] | None = None

    def next_due(self, step: int) -> float:
        """About a quarter of a second later, at the speed since the last time."""
        # The loop compares step numbers and never asks for the time, so time becomes steps here.
        now = time.perf_counter()
        then, before = self._looked or (now, step)
        self._looked = now, step
        return step + max(1, int(_LOOK * (step - before) / max(now - then, 1e-9)))

    def on_start(self, step: int, records: list[Record]) -> None:
        # Called again after a rollback, when the bar is there already.
        if not self._shown:
            self._progress.__enter__()
            self._shown = True

    def on_step(self, step: int, state: Any) -> None:
        self._progress.at(step)

    def on_record(self, record: Record) -> None:
        self._progress.metrics(record.metrics)

    def on_end(self, result: FitResult) -> None:
        if self._shown:
            self._progress.at(result.step)
            self._progress.__exit__()


class _Callback(Hook):
    """A function of a record as a hook, with its own ``on_start`` and ``close`` if it has them."""

    def __init__(self, function: Callable[[Record], object]):
        self._function = function

    def on_start(self, step: int, records: list[Record]) -> None:
        if callable(start := getattr(self._function, "on_start", None)):
            start(step, records)

    def on_record(self, record: Record) -> bool | str:
        answer = self._function(record)
        return answer if isinstance(answer, str) else stops(answer)

    def on_end(self, result: FitResult) -> None:
        if callable(close := getattr(self._function, "close", None)):
            close()


def stops(answer: object) -> bool:
    """Whether what a hook returned says to stop: True of Python, NumPy or JAX."""
    # Not by truth: functions that log return all kinds of things, a count of bytes for instance.
    if isinstance(answer, np.bool_ | jax.Array):
        return answer.shape == () and answer.dtype.kind == "b" and bool(answer)
    return answer is True


def _checked_metrics(hook: Hook, own: object, others: Mapping[str, Any]) -> dict[str, Any]:
    """What ``on_step`` of a hook returned, if it is scalars by name that no other hook has."""
    name = type(hook).__name__
    if not isinstance(own, Mapping) or not all(isinstance(key, str) for key in own):
        raise TrainingError(
            f"on_step of {name} must return metrics, scalars by name, or None",
            got=format_short(own),
        )
    for key, value in own.items():
        numeric = isinstance(value, int | float | np.generic | np.ndarray | jax.Array)
        if not numeric or np.shape(value) != ():
            raise TrainingError(
                f"the metric {key!r} of {name} must be a scalar", got=format_short(value)
            )
        if key in others:
            raise TrainingError(f"two hooks returned the metric {key!r}")
    return dict(own)


def _check_schedule(hook: Hook) -> None:
    """Raises for a hook that would never be called as it is written."""
    name = type(hook).__name__
    for every, method in (("every", "on_step"), ("snapshot_every", "on_snapshot")):
        period = getattr(hook, every)
        if period is not None and (not isinstance(period, int) or period < 1):
            raise TrainingError(
                f"{every} of {name} must be a positive int, got {format_short(period)}"
            )
        own = getattr(type(hook), method) is not getattr(Hook, method)
        timed = method == "on_step" and type(hook).next_due is not Hook.next_due
        if own and period is None and not timed:
            raise TrainingError(
                f"{name} has {method}, and would never be called",
                hint=f"{every} = 100, in the class",
            )
    # A misspelt method would never be called, and nothing would say so.
    known = {method for method in vars(Hook) if method.startswith("on_")}
    unknown = [method for method in dir(hook) if method.startswith("on_") and method not in known]
    if unknown:
        raise TrainingError(
            f"{name} has {unknown[0]}, which fit does not know",
            expected=", ".join(sorted(known)),
        )


def as_hook(value: Any) -> Hook:
    """A hook as it is, or a function of a record as one.

    Raises:
      TrainingError: for anything else, and for a hook that would never be called.
    """
    if isinstance(value, Hook):
        _check_schedule(value)
        return value
    _check_is_made(value)
    arguments.function("hooks", value, "record")
    return _Callback(value)


def _check_is_made(value: Any) -> None:
    """Raises for a class, and for a function of this library that makes a hook."""
    name = getattr(value, "__name__", "")
    module = getattr(value, "__module__", None) or ""
    # A function that it returns has another qualified name.
    makes = inspect.isfunction(value) and value.__qualname__ == name
    if inspect.isclass(value) or (makes and module.startswith("jlayers.")):
        raise TrainingError(
            f"hooks must be functions of a record, and {name} makes one: call it",
            got=format_short(value),
            hint=f"hooks=[{name}(...)]",
        )
