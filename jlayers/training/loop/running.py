"""How ``fit`` runs: one call after the other, and at some of them something is due."""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ...specs import specs_of
from ..data.positions import Position
from ..data.prefetch import prefetch
from ..data.stacking import stacked
from ..logs.progress import Progress
from .arguments import Arguments
from .donation import Donation
from .ledger import Ledger
from .program import program_of
from .resumption import Kept, restored, save, with_sums
from .signals import Signals
from .tally import Tally, start_tally
from .trouble import NonFiniteError, Trail, told
from .warn import warn

# Seconds between two looks at the progress.
_LOOK = 0.25
# Rollbacks to one checkpoint, and warnings of steps that were left out.
_ROLLBACKS, _WARNINGS = 3, 3


class Loop:
    """A run of ``fit``: where it stands."""

    def __init__(self, plan: Arguments, run: Any, ledger: Ledger, progress: Progress | None):
        self.plan, self.ledger, self.progress = plan, ledger, progress
        self.run, self.step = run, int(getattr(run, "step", 0))
        self.position: Position = list(plan.source.start)
        self.sums: dict[str, Any] | None = None
        self.tally: Any = None
        self.calls = self.rollbacks = self.left_out = 0
        self.cut_at = self.evaluated_at = self.saved = -1
        self.donation: Donation | None = None
        self.signals = Signals()
        self.stops = plan.non_finite in ("stop", "roll back")
        many = plan.steps_per_call > 1
        self.program = program_of(plan.step, plan.non_finite != "ignore", self.stops, many)
        self.watch = self.program.watch
        self.watch.allow(plan.max_compiles)

    def run_to_end(self, resume: bool) -> str:
        """Takes steps; why it ended."""
        kept = restored(self.plan.checkpoints, self.run) if resume else None
        self._begin(kept or Kept(self.run, self.step, self.position, [], None))
        stopped = self._ended()
        with self.signals, self.progress or contextlib.nullcontext(), self.watch:
            while stopped is None:
                stopped = self._go_on()
            if self.progress is not None:
                self.progress.at(self.step)
        if self.plan.checkpoints is not None:
            self.plan.checkpoints.wait()
        return stopped

    def _begin(self, kept: Kept) -> None:
        self.run, self.step, self.position, records, self.sums = kept
        self.ledger.begin(self.step, records)
        self.saved = self.step

    def _ended(self) -> str | None:
        if self.plan.steps is not None and self.step >= self.plan.steps:
            return "steps"
        return "early stopping" if self.ledger.stops_early() else None

    def _go_on(self) -> str | None:
        """Takes steps from where the loop stands; why it ended, or None to go on elsewhere."""
        self.trail = Trail(self.plan.source, self.step, self.position)
        self.looked, self.seen = self.step, (self.step, time.perf_counter())
        try:
            with self._batches() as batches:
                stopped = self._take(batches)
            self._finish(stopped)
        except NonFiniteError as error:
            if self.plan.non_finite != "roll back":
                self._save_after(error)
                raise
            self._roll_back(error)
            return None
        except Exception as error:
            self._save_after(error)
            raise
        return stopped

    def _batches(self) -> Any:
        """(batches, position after them, how many) for each call, read ahead."""
        plan = self.plan
        items: Any = plan.source.read(self.position, plan.epochs)
        if plan.steps is not None:
            items = itertools.islice(items, plan.steps - self.step)
        if (k := plan.steps_per_call) > 1:
            # After an end between two calls, up to where the next one would have been.
            first = itertools.islice(items, -self.step % k)
            items = itertools.chain(stacked(first, k), stacked(items, k))
        else:
            items = ((batch, position, 1) for batch, position in items)
        if plan.prefetch:
            return prefetch(items, plan.prefetch, device=plan.device)
        if plan.device is not None:
            items = ((jax.device_put(batch, plan.device), *rest) for batch, *rest in items)
        return contextlib.nullcontext(items)

    def _take(self, batches: Iterator[tuple[Any, Position, int]]) -> str:
        """Calls the step until something ends the loop."""
        first = next(batches, None)
        if first is None:
            return self._ended() or "data"
        tick, watch, signals, add = self.program.tick, self.watch, self.signals, self.trail.add
        run, step, position, full = self.run, self.step, self.position, self.plan.steps_per_call
        tally = self.tally = self._start_tally(first[0])
        due, rest = 0, self.program.rest
        try:
            # What stands in this loop is paid for at every step.
            for batch, position, count in itertools.chain([first], batches):
                given = run, tally
                run, tally = (tick if count == full else rest)(run, tally, batch)
                step += count
                add(step, position, batch)
                if step < due and signals.raised is None and watch.events == watch.seen:
                    continue
                self.run, self.tally, self.step, self.position = run, tally, step, position
                if watch.events != watch.seen:
                    self._compiled(*given, batch)
                stopped, due = self._due()
                tally = self.tally
                if stopped is not None:
                    return stopped
        except NonFiniteError:
            step = self.step
            raise
        finally:
            if step != self.step:
                self.run, self.tally, self.step, self.position = run, tally, step, position
        return self._ended() or "data"

    def _start_tally(self, batch: Any) -> Tally:
        specs = specs_of(batch, "the batch")
        if self.plan.steps_per_call > 1:
            specs = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), specs)
        alive = jax.ShapeDtypeStruct((), bool) if self.stops else None
        _, metrics, _ = jax.eval_shape(self.program.guarded, self.run, specs, alive)
        return _beside(self.run, with_sums(start_tally(metrics, self.step), self.sums))

    def _compiled(self, *given: Any) -> None:
        report = self.watch.report(self.step, *given)
        # The first call of a loop may differ from the last one of another.
        if report is not None and self.calls:
            warn(report)

    def _due(self) -> tuple[str | None, int]:
        """Does what is due after this call; why to stop, if so, and the step to come back at."""
        plan = self.plan
        self._verify_donation()
        if self.signals.raised is not None:
            return "SIGTERM" if self.signals.raised is signal.SIGTERM else "interrupt", 0
        stopped = None
        evaluates = plan.evaluate is not None and self._passed(plan.evaluate_every)
        if evaluates or self._passed(plan.log_every):
            self._cut(evaluates)
            # One record behind, which is there by now; after an evaluation it is waited for.
            stopped = self.ledger.read(0 if evaluates else 1, self._check)
        if plan.checkpoints is not None and self._passed(plan.checkpoint_every):
            stopped = self.ledger.read(0, self._check) or stopped
            self._save()
        every = [plan.log_every]
        every += [plan.evaluate_every] if plan.evaluate is not None else []
        every += [plan.checkpoint_every] if plan.checkpoints is not None else []
        self.looked = self.step
        return stopped, min(self._look(), *((self.step // n + 1) * n for n in every))

    def _passed(self, every: int) -> bool:
        """Whether a multiple of ``every`` was reached since the last look."""
        return self.step // every > self.looked // every

    def _look(self) -> int:
        """Shows the progress; the step at which to show it again."""
        self.calls += 1
        if self.calls < 3:
            return self.step + 1
        now = time.perf_counter()
        step, moment = self.seen
        rate = (self.step - step) / max(now - moment, 1e-9)
        self.seen = (self.step, now)
        if self.progress is not None:
            self.progress.at(self.step)
        return self.step + max(1, int(rate * _LOOK))

    def _verify_donation(self) -> None:
        # The first run may stand in memory that is not JAX's own; from the second on it is.
        if self.calls == 0:
            self.donation = Donation(self.run)
        elif self.donation is not None:
            self.donation.verify(self.run)
            self.donation = None

    def _cut(self, evaluates: bool) -> None:
        evaluated = {}
        if evaluates and self.plan.evaluate is not None:
            evaluated = dict(self.plan.evaluate(self.run))
            self.evaluated_at = self.step
        self.ledger.cut(self.step, self.position[0], self.tally, evaluated)
        self.tally = self.program.reset(self.tally)
        self.cut_at = self.step

    def _finish(self, stopped: str) -> None:
        """Saves, and then tells of the steps since the last record.

        Not the other way round: a run that goes on from here has no record at this step.
        """
        if self.tally is None:
            return
        self.ledger.read(0, self._check)
        self._save()
        evaluates = self.plan.evaluate is not None and self.evaluated_at != self.step
        if stopped != "SIGTERM" and (evaluates or self.cut_at != self.step):
            self._cut(evaluates)
            self.ledger.read(0, self._check)

    def _save(self) -> None:
        if self.plan.checkpoints is None or self.saved == self.step:
            return
        tally = jax.device_get(self.tally)
        self._check(self.step, tally)
        kept = Kept(self.run, self.step, self.position, self.ledger.records, None)
        save(self.plan.checkpoints, kept, tally, self.plan.step)
        self.saved, self.rollbacks = self.step, 0

    def _save_after(self, error: Exception) -> None:
        """Keeps what there is when the loop ends by an error."""
        if self.tally is None:
            return
        self.ledger.tell = ()
        try:
            if not isinstance(error, NonFiniteError):
                self.ledger.read(0, self._check)
            self._save()
            if self.plan.checkpoints is not None:
                self.plan.checkpoints.wait()
        except Exception as second:
            error.add_note(f"and the run could not be saved after it: {second}")

    def _check(self, step: int, tally: Tally) -> None:
        """Looks whether all steps up to this one were sound.

        Raises:
          NonFiniteError: where one was not, unless such steps are left out. The loop then stands
            right before that step.
        """
        bad, policy = int(tally.bad), self.plan.non_finite
        if bad < 0 or policy == "ignore":
            self.trail.forget(step)
            return
        found = self.trail.find(bad, self.plan.steps_per_call > 1)
        if policy == "skip":
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

    def _roll_back(self, error: NonFiniteError) -> None:
        """Stands at the newest checkpoint again, in the data behind the batch that did it."""
        self.rollbacks += 1
        kept = restored(self.plan.checkpoints, self.run)
        if kept is None or self.rollbacks > _ROLLBACKS:
            why = "there is no checkpoint yet" if kept is None else f"{_ROLLBACKS} times in a row"
            error.add_note(f"no rolling back: {why}")
            raise error
        warn(f"{error}\n  The run goes back to step {kept.step}.")
        self._begin(kept._replace(position=error.after))


def _beside(run: Any, tally: Tally) -> Tally:
    """The tally on the mesh of the run, where it has one: where the step will leave it."""
    for leaf in jax.tree.leaves(run):
        if isinstance(sharding := getattr(leaf, "sharding", None), NamedSharding):
            everywhere = NamedSharding(sharding.mesh, PartitionSpec())
            return jax.device_put(tally, everywhere)  # type: ignore[no-any-return]
    return tally
