"""What a loop says of a step that was not sound, and how it finds the batch again."""

from __future__ import annotations

import collections
from typing import Any, NamedTuple

import jax

from ...errors import LayerError
from ..data.positions import Position, Source
from ..diagnosis.non_finite import find_non_finite
from ..steps.step import TrainStep
from ..steps.train_state import TrainState


class NonFiniteError(LayerError):
    """A loss or a gradient was not finite.

    Attributes:
      step: the number of the step, from 0.
      position: in the data, before the batch.
      after: in the data, after the batch.
      batch: the batch.
      run: the run as it was before the step.
      report: which layer it began in, a ``NonFinite``; None where that is not known.
      fitted: what the loop had done, a ``Fitted``.
    """

    # As users know it, in tracebacks too.
    __module__ = "jlayers.training"

    def __init__(self, found: Found, step: int, run: Any, report: Any):
        super().__init__(
            f"the loss or the gradient of step {step} is not finite",
            got="\n" + "\n".join(f"    {line}" for line in _text(report).splitlines()),
            mend='fit(..., non_finite="skip") leaves such steps out',
        )
        self.step, self.run, self.report = step, run, report
        self.batch, self.position, self.after = found
        self.problem += f" (its batch is at {self.position} in the data)"
        self.fitted: Any = None


def _text(report: Any) -> str:
    if report is not None:
        return str(report)
    return "no layer shows it with the parameters there are now"


class Found(NamedTuple):
    batch: Any
    position: Position
    after: Position


class Call(NamedTuple):
    """A call of the compiled step: the number of the step after it, and where its batches were."""

    step: int
    position: Position
    batch: Any


class Trail:
    """The calls whose records were not read yet, so that a batch can be found again.

    Batches themselves are kept only of data that cannot be read again.
    """

    def __init__(self, source: Source, step: int, position: Position):
        self._source = source
        self._calls = collections.deque([Call(step, position, None)])
        self.add = self._add_position if source.rereads else self._add_batch

    def _add_position(self, step: int, position: Position, batch: Any) -> None:
        self._calls.append((step, position, None))  # type: ignore[arg-type]

    def _add_batch(self, step: int, position: Position, batch: Any) -> None:
        self._calls.append((step, position, batch))  # type: ignore[arg-type]

    def forget(self, step: int) -> None:
        """Drops the calls up to the one after which ``step`` steps were taken."""
        while len(self._calls) > 1 and self._calls[1][0] <= step:
            self._calls.popleft()

    def find(self, step: int, stacks: bool) -> Found:
        """The batch of the step with this number."""
        before = max((c for c in self._calls if c[0] <= step), key=lambda call: call[0])
        after = min((c for c in self._calls if c[0] > step), key=lambda call: call[0])
        if self._source.rereads:
            position = before[1]
            batches = self._source.read(position)
            for _ in range(step - before[0]):
                _, position = next(batches)
            return Found(*_second(*next(batches), position))
        batch = after[2]
        if stacks:
            batch = jax.tree.map(lambda leaf: leaf[step - before[0]], batch)
        return Found(batch, before[1], after[1])


def _second(batch: Any, after: Position, position: Position) -> tuple[Any, Position, Position]:
    return batch, position, after


def told(step: Any, run: Any, batch: Any) -> Any:
    """The report on a step of ``train_step``; of other steps nothing is known."""
    if not (isinstance(step, TrainStep) and isinstance(run, TrainState)):
        return None
    return find_non_finite(
        step.model, step.loss, run, batch, frozen=step.frozen, accumulate=step.accumulate
    )
