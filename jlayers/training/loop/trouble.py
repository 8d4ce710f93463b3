"""What a loop says of a step that was not sound, and how it finds the batch again."""

from __future__ import annotations

import collections
from typing import Any, NamedTuple

import jax

from ...base.errors import TrainingError
from ...data import Position, Source
from ...inspection.nonfinite.find import find_non_finite
from ..state import TrainState
from ..step import TrainStep

# Bytes of batches that are kept of data which cannot be read again.
_KEPT = 1 << 28


class NonFiniteError(TrainingError):
    """A loss or a gradient was not finite.

    Attributes:
      step: the number of the step, from 0.
      position: in the data, before the batch.
      after: in the data, after the batch.
      batch: the batch; None where it could not be kept, and cannot be read again.
      run: the run as it was before the step.
      report: which layer it began in, a ``NonFinite``; None where that is not known.
      fitted: what the loop had done, a ``FitResult``.
    """

    # As users know it, in tracebacks too.
    __module__ = "jlayers.training"

    def __init__(self, found: Found, step: int, run: Any, report: Any):
        if report is not None:
            text = "\n" + "\n".join(f"    {line}" for line in str(report).splitlines())
        elif found.batch is None:
            text = "a batch that cannot be read again, and was too large to be kept"
        else:
            text = "no layer shows it with the parameters there are now"
        super().__init__(
            f"the loss or the gradient of step {step} is not finite "
            f"(its batch is at {found.position} in the data)",
            got=text,
            hint='fit(..., non_finite="skip") leaves such steps out',
        )
        self.step, self.run, self.report = step, run, report
        self.batch, self.position, self.after = found
        self.fitted: Any = None


class Found(NamedTuple):
    """A batch, and where it stands in the data."""

    batch: Any
    position: Position
    after: Position


class Call(NamedTuple):
    """A call of the compiled step: how many steps were taken after it, and where the data was."""

    step: int
    position: Position
    batch: Any


class Trail:
    """The calls whose records were not read yet, so that a batch can be found again.

    Of data that can be read again now and then one of them is enough.

    Attributes:
      keeps: whether each call is to be added with its batch, since the data cannot be read again;
        if batches are large, the newest ones are kept.
    """

    def __init__(self, source: Source, step: int, position: Position, stacks: bool):
        self.keeps = not source.rereads
        self._source, self._stacks = source, stacks
        self._calls = collections.deque([Call(step, position, None)])
        self._most: int | None = None

    def add(self, step: int, position: Position, batch: Any = None) -> None:
        """After a call."""
        if not self.keeps:
            self._calls.append(Call(step, position, None))
            return
        if self._most is None:
            size = sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(batch))
            self._most = max(1, _KEPT // max(size, 1))
        self._calls.append(Call(step, position, batch))
        if len(self._calls) > self._most:
            old = len(self._calls) - self._most - 1
            self._calls[old] = self._calls[old]._replace(batch=None)

    def forget(self, step: int) -> None:
        """Drops the calls up to the one after which ``step`` steps were taken."""
        while len(self._calls) > 1 and self._calls[1].step <= step:
            self._calls.popleft()

    def find(self, step: int) -> Found:
        """The batch of the step with this number."""
        before = next(call for call in reversed(self._calls) if call.step <= step)
        past = step - before.step
        if not self.keeps:
            position = before.position
            batches = self._source.read(position)
            for _ in range(past):
                _, position = next(batches)
            batch, then = next(batches)
            return Found(batch, position, then)
        epoch, index, *rest = before.position
        batch = next(call.batch for call in self._calls if call.step > step)
        if self._stacks and batch is not None:
            batch = jax.tree.map(lambda leaf: leaf[past], batch)
        return Found(batch, [epoch, index + past, *rest], [epoch, index + past + 1, *rest])


def told(step: Any, run: Any, batch: Any) -> Any:
    """The report on a step of ``train_step``; of other steps nothing is known."""
    if batch is None or not (isinstance(step, TrainStep) and isinstance(run, TrainState)):
        return None
    return find_non_finite(
        step.model, step.loss, run, batch, frozen=step.frozen, accumulate=step.accumulate
    )
