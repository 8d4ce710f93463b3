"""How ``fit`` runs: one call after the other, and at some of them something is due."""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from ...base.errors import warn
from ...base.specs import specs_of
from ...data import Position, prefetch, stack_batches
from ..writers.progress import Progress
from .arguments import Arguments
from .donation import Donation, check_apart
from .flat import form_of
from .ledger import Ledger
from .metrics import Tally, start_tally
from .program import program_of
from .recovery import Keeping
from .resumption import Kept, restored, with_sums
from .signals import Signals
from .trouble import NonFiniteError, Trail

# Seconds between two looks at the progress.
_LOOK = 0.25


class Loop(Keeping):
    """A run of ``fit``."""

    def __init__(self, plan: Arguments, run: Any, ledger: Ledger, progress: Progress | None):
        super().__init__()
        check_apart(run)
        self.plan, self.ledger, self.progress = plan, ledger, progress
        first = int(getattr(run, "step", 0))
        self.begin(Kept(run, first, list(plan.source.start), [], None))
        self.calls = 0
        self.cut_at = self.evaluated_at = -1
        self.donation: Donation | None = None
        self.signals = Signals()
        self.stops = plan.non_finite in ("stop", "roll back")
        many = plan.steps_per_call > 1
        self.program = program_of(plan.step, plan.non_finite != "ignore", self.stops, many)
        self.watch = self.program.watch
        self.watch.allow(plan.max_compiles)

    def run_to_end(self, resume: bool) -> str:
        """Takes steps; why it ended."""
        kept = restored(self.plan.checkpoints, self.plan.source, self.run) if resume else None
        if kept is not None:
            self.begin(kept)
        stopped = self._ended()
        with self.signals, self.progress or contextlib.nullcontext(), self.watch:
            while stopped is None:
                stopped = self._go_on()
            if self.progress is not None:
                self.progress.at(self.step)
            if self.plan.checkpoints is not None:
                self.plan.checkpoints.wait()
        return "SIGTERM" if self.signals.raised is signal.SIGTERM else stopped

    def _ended(self) -> str | None:
        if self.plan.steps is not None and self.step >= self.plan.steps:
            return "steps"
        return "early stopping" if self.ledger.stops_early() else None

    def _go_on(self) -> str | None:
        """Takes steps from where the loop stands; why it ended, or None to go on elsewhere."""
        self.trail = Trail(self.plan.source, self.step, self.position, self.plan.steps_per_call > 1)
        self.seen = (self.step, time.perf_counter())
        try:
            with self._batches() as batches:
                stopped = self._take(batches)
            self._finish(stopped)
        except NonFiniteError as error:
            if self.plan.non_finite != "roll back":
                self.save_after(error)
                raise
            self.roll_back(error)
            return None
        except Exception as error:
            self.save_after(error)
            raise
        return stopped

    def _batches(self) -> Any:
        """(batches, position after them, how many) for each call, read ahead."""
        plan = self.plan
        items: Any = plan.source.read(self.position, plan.epochs)
        left = None if plan.steps is None else plan.steps - self.step
        if plan.steps_per_call > 1:
            items = _stacks(items, plan.steps_per_call, self.step, left)
        else:
            items = ((batch, after, 1) for batch, after in itertools.islice(items, left))
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
        self.tally = self._start_tally(first[0])
        # What was due when the run before this one ended.
        if stopped := self._do_what_is_due():
            return stopped
        form = form_of((self.run, self.tally))
        tick, rest = self.program.tick(form), self.program.rest(form)
        leaves, full = self._carry(), self.plan.steps_per_call
        watch, signals, trail = self.watch, self.signals, self.trail
        step, position, due = self.step, self.position, 0
        try:
            # What stands in this loop is paid for at every step.
            for batch, after, count in itertools.chain([first], batches):
                given = leaves
                leaves = (tick if count == full else rest)(leaves, batch)
                step += count
                position = after
                if trail.keeps:
                    trail.add(step, position, batch)
                if step < due and signals.raised is None and watch.events == watch.seen:
                    continue
                self._stand(leaves, step, position)
                if watch.events != watch.seen:
                    self._compiled(*form.tree(given), batch)
                stopped, due = self._look()
                leaves = self._carry()
                if stopped is not None:
                    return stopped
        except NonFiniteError:
            step = self.step
            raise
        finally:
            if step != self.step:
                self._stand(leaves, step, position)
        return self._ended() or "data"

    def _carry(self) -> list[Any]:
        return [*self.leaves, *jax.tree.leaves(self.tally)]

    def _stand(self, carry: list[Any], step: int, position: Position) -> None:
        count = len(self.leaves)
        self.leaves = carry[:count]
        self.tally = jax.tree.unflatten(jax.tree.structure(self.tally), carry[count:])
        self.step, self.position = step, position

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

    def _look(self) -> tuple[str | None, int]:
        """After a call: why to stop, if so, and the step to look again at."""
        plan = self.plan
        if not self.trail.keeps:
            self.trail.add(self.step, self.position)
        self._verify_donation()
        if self.signals.raised is not None:
            return "SIGTERM" if self.signals.raised is signal.SIGTERM else "interrupt", 0
        stopped = self._do_what_is_due()
        every = [plan.log_every]
        every += [plan.evaluate_every] if plan.evaluate is not None else []
        every += [plan.checkpoint_every] if plan.checkpoints is not None else []
        return stopped, min(self._show(), *((self.step // n + 1) * n for n in every))

    def _do_what_is_due(self) -> str | None:
        """Records, evaluations and checkpoints whose step has come; why to stop, if so."""
        plan = self.plan
        # A stack that the end of a run cut short is no call of the run that goes on.
        if self.step == self.looked or self.step % plan.steps_per_call:
            return None
        passed = {
            every: self.step // every > self.looked // every
            for every in (plan.log_every, plan.evaluate_every, plan.checkpoint_every)
        }
        stopped = None
        evaluates = plan.evaluate is not None and passed[plan.evaluate_every]
        cuts = evaluates or passed[plan.log_every]
        if cuts:
            self._cut(evaluates)
        self.looked = self.step
        if cuts:
            # One record behind, which is there by now; after an evaluation it is waited for.
            stopped = self.ledger.read(0 if evaluates else 1, self.check)
        if plan.checkpoints is not None and passed[plan.checkpoint_every]:
            stopped = self.ledger.read(0, self.check) or stopped
            self.save()
        return stopped

    def _show(self) -> int:
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
        words, self.tally = self.program.cut(self.tally)
        self.ledger.cut(self.step, self.position[0], words, self.tally, evaluated)
        self.cut_at = self.step

    def _finish(self, stopped: str) -> None:
        """Saves, and then tells of the steps since the last record.

        Not the other way round: a run that goes on from here has no record at this step.
        """
        if self.tally is None:
            return
        self.ledger.read(0, self.check)
        self.save()
        evaluates = self.plan.evaluate is not None and self.evaluated_at != self.step
        if stopped != "SIGTERM" and (evaluates or self.cut_at != self.step):
            self._cut(evaluates)
            self.ledger.read(0, self.check)


def _stacks(items: Any, steps: int, taken: int, left: int | None) -> Iterator[Any]:
    """Stacks of ``steps`` batches, of ``left`` in all.

    After an end between two calls the first goes up to where the next call would have been.
    """
    head = -taken % steps if left is None else min(-taken % steps, left)
    yield from stack_batches(itertools.islice(items, head), steps)
    if left is None:
        yield from stack_batches(items, steps)
        return
    whole, rest = divmod(left - head, steps)
    yield from itertools.islice(stack_batches(items, steps), whole)
    yield from stack_batches(itertools.islice(items, rest), steps)


def _beside(run: Any, tally: Tally) -> Tally:
    """The tally on the mesh of the run, where it has one: where the step will leave it."""
    for leaf in jax.tree.leaves(run):
        if isinstance(sharding := getattr(leaf, "sharding", None), NamedSharding):
            everywhere = NamedSharding(sharding.mesh, PartitionSpec())
            return jax.device_put(tally, everywhere)  # type: ignore[no-any-return]
    return tally
