"""How ``fit`` runs: one call of the compiled step after the other, and at some something is due.

How to read this file: ``run`` goes to the end, ``_segment`` from one start (or rollback) to the
next, ``_take`` holds the loop over calls itself. ``_attend`` follows a call at which something is
due: records are flushed to the ``History``, hooks called, snapshots taken. The host never waits for
the device in between: a record is read when the next one is due, by when its numbers are there.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ...base import processes
from ...base.specs import specs_of
from ...checkpoint import CheckpointManager
from ...data import Position, Source
from ...data.recent_batches import RecentBatches
from ...inspection.donation import Donation, check_distinct, check_not_donated, copied
from ..alike import check_program
from ..sharded import one_at_a_time
from ..state import TrainState
from ..step import Step
from .hooks import Hook, HookMetrics, LoopSnapshot, Schedule, Scheduled, next_multiple
from .items import Item, call_items
from .metrics import (
    History,
    MetricAccumulator,
    Pending,
    empty_accumulator,
    placed,
)
from .non_finite import NonFiniteError
from .program import Leaves, form_of, program_of
from .recovery import (
    Recovery,
    restore_snapshot,
    saved_accumulator,
    sums_of,
    with_sums,
)
from .several import Preemption, check_end, saved_by_all
from .signals import Interrupted, Signals


class Plan(NamedTuple):
    """The arguments of ``fit`` that concern the loop itself, checked.

    ``reads`` is the source of what this process is to read, ``source`` that of whole batches.
    """

    step: Step
    source: Source
    reads: Source
    steps: int | None
    epochs: int | None
    steps_per_call: int
    log_every: int
    non_finite: str
    max_compiles: int | None
    prefetch: int
    device: Any
    manager: CheckpointManager | None
    donate: bool
    compiler_options: Mapping[str, bool | str]
    put: Callable[[Any], Any] | None


class Loop:
    """One run of ``fit``.

    Attributes:
      step, position: after the last call.
      history: the records.
      resumed: the step of the checkpoint that the loop continues from, if any, and if nothing of
        that step is still to be done.
    """

    def __init__(self, plan: Plan, state: Any, hooks: tuple[Hook, ...]):
        check_not_donated(state)
        if plan.donate:
            check_distinct(state)
        self._plan, self._schedule = plan, Schedule(hooks)
        self.history = History(hooks)
        self._recovery = Recovery(plan.step, plan.non_finite, plan.manager)
        self._signals = Signals() if processes.count() == 1 else Preemption()
        self._donation: Donation | None = None
        self.resumed: int | None = None
        # Looks at what is due: the first two verify donation.
        self._looks = 0
        self._stops = plan.non_finite in ("stop", "roll back")
        guard, many = plan.non_finite != "ignore", plan.steps_per_call > 1
        options = tuple(sorted(plan.compiler_options.items()))
        self._program = program_of(plan.step, guard, self._stops, many, options)
        self._watch = self._program.watch
        # The program may have been compiled by a loop before this one: count from here.
        self._watch.allow(plan.max_compiles)
        # A state of the user's own may count its steps; if not, they are counted from here.
        # On the device they are an int32, which goes on from -2**31 after 2**31 - 1.
        step = int(getattr(state, "step", 0))
        step += (step < 0) << 32
        self._restore(LoopSnapshot(state, step, list(plan.source.start), [], None))

    @property
    def state(self) -> Any:
        """The state after the last call, as a tree."""
        return self._form.tree(self._leaves)

    def _restore(self, snapshot: LoopSnapshot) -> None:
        state, self.step, self.position, records, self._sums = snapshot
        self._form = form_of(state)
        # Flat between calls: a call takes and returns lists of arrays.
        self._leaves = self._form.flat(state)
        # The last step at which everything that was due was done.
        self._looked = self._sums["looked"] if self._sums else self.step
        # Whether a signal ended the loop here, so that records may be due and not made.
        self._unfinished = bool(self._sums and self._sums.get("unfinished"))
        self._accumulator: MetricAccumulator | None = None
        self._flushed = -1
        self.history.start(self.step, records)
        self._schedule.start(self.step, self._looked)

    def run(self, resume: bool) -> str:
        """Takes steps; why it ended."""
        plan = self._plan
        snapshot = None
        if resume:
            snapshot = restore_snapshot(plan.manager, plan.source, self.state, plan.step)
        if snapshot is not None:
            self._restore(snapshot)
            self.resumed = None if self._unfinished else self.step
        elif not plan.donate:
            # The first call is given this memory; the caller's is the caller's.
            self._leaves = copied(self._leaves)
        stopped = self._start()
        with self._signals, self._watch:
            while stopped is None:
                stopped = self._segment()
            if plan.manager is not None:
                plan.manager.wait()
        return "SIGTERM" if self._signals.reason == "SIGTERM" else stopped

    def _start(self) -> str | None:
        if stopped := not self._unfinished and self._complete():
            return stopped
        return self._schedule.on_start(self.step, self.history.records)

    def _complete(self) -> str | None:
        steps = self._plan.steps
        return "steps" if steps is not None and self.step >= steps else None

    def _segment(self) -> str | None:
        """Takes steps from here; why it ended, or None to continue after a rollback."""
        plan = self._plan
        many = plan.steps_per_call > 1
        self._recent = RecentBatches(plan.source, self.step, self.position, many)
        try:
            # A new segment reads the data again: after a rollback from another position.
            with self._batches() as batches:
                try:
                    stopped = self._take(self._signals.watched(batches))
                except Interrupted:
                    stopped = self._signals.reason or "interrupt"
            return self._finish(stopped)
        except NonFiniteError as error:
            snapshot = None
            if plan.non_finite == "roll back":
                snapshot = self._recovery.roll_back(error, plan.source, self.state)
            if snapshot is None:
                self._save_after(error)
                raise
            self._restore(snapshot)
            self._start()
            return None
        except BaseException as error:
            # The second Ctrl-C, which may have come within a step, wants no more of this.
            if not (isinstance(error, KeyboardInterrupt) and self._signals.reason):
                self._save_after(error)
            raise

    def _batches(self) -> contextlib.AbstractContextManager[Iterator[Item]]:
        """The batches for each call, read ahead."""
        plan = self._plan
        return call_items(
            plan.reads,
            self.position,
            epochs=plan.epochs,
            step=self.step,
            left=None if plan.steps is None else plan.steps - self.step,
            steps_per_call=plan.steps_per_call,
            prefetch=plan.prefetch,
            device=plan.device,
            put=plan.put,
            recent=self._recent,
        )

    def _take(self, batches: Iterator[Item]) -> str:
        """Calls the step until something ends the loop."""
        first = next(batches, None)
        if first is None:
            return self._take_none()
        self._unfinished = False
        self._accumulator = self._first_accumulator(first[0])
        # What was due where the loop ended before.
        if stopped := self._run_due():
            return stopped
        form = form_of((self.state, self._accumulator))
        tick, rest = map(one_at_a_time, (self._program.tick(form), self._program.rest(form)))
        leaves, full = self._carry(), self._plan.steps_per_call
        watch, signals, recent = self._watch.counts, self._signals, self._recent
        step, position, due = self.step, self.position, 0.0
        try:
            # Every line of this loop costs each step its time.
            for batch, after, count in itertools.chain([first], batches):
                given = leaves
                leaves = (tick if count == full else rest)(leaves, batch)
                step += count
                position = after
                if recent.keeps:
                    recent.add(step, position, batch)
                if step < due and signals.raised is None and watch.events == watch.seen:
                    continue
                self._set(leaves, step, position)
                if watch.events != watch.seen:
                    report = self._watch.report(step, *form.tree(given), batch)
                    # The first call of a loop may differ from the last one of another.
                    if report is not None and self._looks:
                        processes.warn_once(report)
                stopped, due = self._attend()
                leaves = self._carry()
                if stopped is not None:
                    return stopped
        except NonFiniteError:
            step = self.step
            raise
        finally:
            if step != self.step:
                self._set(leaves, step, position)
        return self._complete() or "data"

    def _take_none(self) -> str:
        """There is no step left; why it ended."""
        stopped = None
        if self._unfinished and self._sums:
            self._accumulator = saved_accumulator(self._sums)
            self.resumed = None  # there is something to do: the record
            self._schedule.save_again()
            stopped = self._run_due()
        return stopped or self._complete() or "data"

    def _carry(self) -> Leaves:
        return [*self._leaves, *jax.tree.leaves(self._accumulator)]

    def _set(self, carry: Leaves, step: int, position: Position) -> None:
        count = len(self._leaves)
        self._leaves = carry[:count]
        structure = jax.tree.structure(self._accumulator)
        self._accumulator = jax.tree.unflatten(structure, carry[count:])
        self.step, self.position = step, position

    def _first_accumulator(self, batch: Any) -> MetricAccumulator:
        # Shapes alone: the names of the metrics are needed before the first call.
        specs = specs_of(batch, "the batch")
        if self._plan.steps_per_call > 1:
            specs = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), specs)
        active = jax.ShapeDtypeStruct((), bool) if self._stops else None
        state = self.state
        _, metrics, _ = jax.eval_shape(self._program.guarded, state, specs, active)
        check_program("fit", self._program.guarded, state, specs, active)
        return placed(state, with_sums(empty_accumulator(metrics), self._sums))

    def _attend(self) -> tuple[str | None, float]:
        """After a call: why to stop, if so, and the step to look again at."""
        if not self._recent.keeps:
            self._recent.add(self.step, self.position)
        # The first state may be in memory that is not JAX's own; from the second on it is.
        if self._looks == 0:
            self._donation = Donation(self.state)
        elif self._donation is not None:
            self._donation.verify(self.state)
            self._donation = None
        self._looks += 1
        self._signals.attend()
        if self._signals.reason:
            return self._signals.reason, 0
        stopped = self._run_due()
        if self._looks < 2:
            return stopped, self.step + 1
        record_due = next_multiple(self.step, self._plan.log_every)
        return stopped, min(record_due, self._schedule.next_due())

    def _run_due(self) -> str | None:
        """Records, hooks and snapshots whose step has come; why to stop, if so."""
        plan = self._plan
        # A stack that was cut short by the end of a loop is not a call of the one that resumes.
        if self.step == self._looked or self.step % plan.steps_per_call:
            return None
        metrics = self._schedule.on_step(self.step, lambda: self.state)
        flushes = metrics is not None or self.step >= next_multiple(self._looked, plan.log_every)
        if flushes:
            self._flush(metrics or {})
        self._looked = self.step
        stopped = None
        if flushes:
            # One record behind, which is there by now; the metrics of hooks are waited for.
            stopped = self.history.read(1 if metrics is None else 0, self._check)
        if scheduled := self._schedule.for_snapshot(self.step):
            stopped = self.history.read(0, self._check) or stopped
            self._save(scheduled)
        return stopped

    def _flush(self, metrics: HookMetrics) -> None:
        assert self._accumulator is not None
        words, self._accumulator = self._program.flush(self._accumulator)
        now, like = time.perf_counter(), self._accumulator
        self.history.pending.append(Pending(self.step, self.position[0], now, words, like, metrics))
        self._flushed = self.step

    def _check(self, step: int, accumulator: MetricAccumulator) -> None:
        """Checks that all steps up to this one were finite.

        Raises:
          NonFiniteError: where one was not, unless such steps are skipped. The loop is then right
            before that step.
        """
        # Of the steps that the accumulator saw, the last is the one before `step`.
        bad = int(accumulator.bad)
        bad = bad if bad < 0 else step - int(accumulator.step) + bad
        error = self._recovery.error_of(bad, lambda: self.state, self._recent)
        if error is None:
            self._recent.forget(step)
            return
        # Records after the bad step hold sums that stopped there.
        self.history.pending.clear()
        self.step, self.position = error.step, error.position
        self._accumulator = accumulator._replace(step=accumulator.bad, bad=np.int32(-1))
        raise error

    def _save(self, scheduled: list[Scheduled]) -> None:
        """Gives a snapshot of this step to hooks."""
        if not scheduled:
            return
        accumulator = jax.device_get(self._accumulator)
        self._check(self.step, accumulator)
        state = self.state
        # A gradient may overflow undetected, and a checkpoint has to be good.
        checks = self._plan.non_finite != "ignore" and isinstance(state, TrainState)
        if checks and not self._program.is_finite(state.params):
            raise NonFiniteError(self._recent.find(self.step - 1), self.step - 1, state, None)
        sums = sums_of(accumulator, self._looked, self._unfinished)
        snapshot = LoopSnapshot(state, self.step, self.position, self.history.records, sums)
        for entry in scheduled:
            entry.hook.on_snapshot(snapshot)
            entry.saved = self.step
        self._recovery.saved()

    def _finish(self, stopped: str) -> str:
        """Takes snapshots, and then makes a record of the steps since the last one.

        Snapshots come first, so that a resumed loop does not find a record of this step in them.
        After a signal it is the resumed loop that makes the record, when it is due.
        """
        check_end(stopped, self.step)
        if self._accumulator is None:
            return stopped
        self.history.read(0, self._check)
        self._unfinished = stopped == self._signals.reason
        self._save(self._schedule.for_snapshot(self.step, last=True))
        if self._unfinished:
            return stopped
        try:
            metrics = self._schedule.on_step(self.step, lambda: self.state, last=True)
        except Interrupted:
            return self._signals.reason or stopped
        if metrics is not None or self._flushed != self.step:
            self._flush(metrics or {})
            self.history.read(0, self._check)
        return stopped

    def _save_after(self, error: BaseException) -> None:
        """Saves what there is when the loop ends by an error."""
        if self._accumulator is None or not saved_by_all(error):
            return
        try:
            # A hook may be what failed; records must not fail a second time.
            self.history.mute()
            with contextlib.suppress(NonFiniteError):
                self.history.read(0, self._check)
            self._save(self._schedule.for_snapshot(self.step, last=True))
            if self._plan.manager is not None:
                self._plan.manager.wait()
        except Exception as second:
            error.add_note(f"and the state could not be saved after it: {second}")
