"""How a loop keeps what it has, and what it does when a step was not sound."""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import numpy as np

from ...base.errors import warn
from ...data import Position
from ..state import TrainState
from .arguments import Arguments
from .flat import Form, form_of
from .ledger import Ledger
from .metrics import Tally
from .program import Program
from .resumption import Kept, restored, save
from .trouble import NonFiniteError, Trail, told

# Rollbacks to one checkpoint, and warnings of steps that were left out.
_ROLLBACKS, _WARNINGS = 3, 3


class Keeping:
    """Where a loop stands.

    Attributes:
      leaves, form: of the run after the last call.
      step, position, tally: after the last call.
      looked: the last step at which it was looked what is due.
      sums: those of a checkpoint that the tally is to go on with.
    """

    plan: Arguments
    ledger: Ledger
    program: Program
    trail: Trail
    leaves: list[Any]
    form: Form
    step: int
    position: Position
    tally: Any
    looked: int
    sums: dict[str, Any] | None

    def __init__(self) -> None:
        self.rollbacks = self.left_out = 0
        self.reported = self.saved = -1

    @property
    def run(self) -> Any:
        """The run after the last call, put together."""
        return self.form.tree(self.leaves)

    def begin(self, kept: Kept) -> None:
        """Stands at a moment."""
        run, self.step, self.position, records, self.sums = kept
        self.form = form_of(run)
        self.leaves = self.form.flat(run)
        self.looked = self.sums["looked"] if self.sums else self.step
        self.tally = None
        self.ledger.begin(self.step, records)
        self.saved = self.step

    def save(self) -> None:
        """Has the moment written, if it was not yet."""
        if self.plan.checkpoints is None or self.saved == self.step:
            return
        tally = jax.device_get(self.tally)
        self.check(self.step, tally)
        self._check_parameters()
        kept = Kept(self.run, self.step, self.position, self.ledger.records, None)
        save(self.plan.checkpoints, kept, tally, self.looked, self.plan.step)
        self.saved, self.rollbacks = self.step, 0

    def save_after(self, error: Exception) -> None:
        """Keeps what there is when the loop ends by an error."""
        if self.tally is None:
            return
        try:
            self.ledger.hush()
            with contextlib.suppress(NonFiniteError):
                self.ledger.read(0, self.check)
            self.save()
            if self.plan.checkpoints is not None:
                self.plan.checkpoints.wait()
        except Exception as second:
            error.add_note(f"and the run could not be saved after it: {second}")

    def check(self, step: int, tally: Tally) -> None:
        """Looks whether all steps up to this one were sound.

        Raises:
          NonFiniteError: where one was not, unless such steps are left out. The loop then stands
            right before that step.
        """
        bad, policy = int(tally.bad), self.plan.non_finite
        if bad < 0 or policy == "ignore" or bad == self.reported:
            self.trail.forget(step)
            return
        found = self.trail.find(bad)
        if policy == "skip":
            self.reported = bad
            self.left_out += 1
            if self.left_out <= _WARNINGS:
                report = told(self.plan.step, self.run, found.batch)
                warn(str(NonFiniteError(found, bad, self.run, report)))
            self.trail.forget(step)
            return
        self.ledger.drop()
        self.step, self.position = bad, found.position
        self.tally = tally._replace(step=np.int32(bad), bad=np.int32(-1))
        raise NonFiniteError(found, bad, self.run, told(self.plan.step, self.run, found.batch))

    def _check_parameters(self) -> None:
        """A gradient may overflow unseen, and a checkpoint is to be good.

        Raises:
          NonFiniteError: where a parameter is not finite.
        """
        ignores = self.plan.non_finite == "ignore"
        if ignores or not isinstance(self.run, TrainState):
            return
        if not self.program.finite(self.run.params):
            found = self.trail.find(self.step - 1)
            raise NonFiniteError(found, self.step - 1, self.run, None)

    def roll_back(self, error: NonFiniteError) -> None:
        """Stands at the newest checkpoint again, in the data behind the batch that did it.

        Raises:
          NonFiniteError: the same, where there is none or it was of no use.
        """
        self.rollbacks += 1
        kept = restored(self.plan.checkpoints, self.plan.source, self.run)
        if kept is None or self.rollbacks > _ROLLBACKS:
            why = "there is no checkpoint yet" if kept is None else f"{_ROLLBACKS} times in a row"
            error.add_note(f"no rolling back: {why}")
            if kept is None:
                self.save_after(error)
            raise error
        warn(f"{error}\n  The run goes back to step {kept.step}.")
        self.begin(kept._replace(position=error.after))
