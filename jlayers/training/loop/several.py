"""A loop on several processes: they start alike, read rows of their own, and end together.

How to read this file: ``check_alike`` comes before the first step. ``own_rows`` lets each process
read the rows that its devices hold. ``Preemption`` takes the place of ``Signals``: SIGTERM on one
process ends the loop on all of them after the same step. ``saved_by_all`` and ``lost`` are about
errors: of one process, and where another one has gone.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator
from typing import Any, TypeVar

import jax

from ...base import processes
from ...base.errors import CheckpointError, ProcessError, TrainingError
from ...base.specs import format_spec, path_text, specs_of
from ...checkpoint import CheckpointManager
from ...checkpoint.layout import steps_in
from ...data import Batches, Source
from ...sharding.batches import rows_here
from ..alike import Shapes, text_of_data
from ..step import Step, TrainStep
from .non_finite import NonFiniteError
from .recovery import description

T = TypeVar("T")
# Of all loops of the process: the service compares numbers that only grow.
_asked = itertools.count(1)


def check_mesh(step: Step, state: Any) -> None:
    """Raises for a step of one process where there are several."""
    if processes.count() == 1:
        return
    meshless = isinstance(step, TrainStep) and step.mesh is None
    if meshless or all(getattr(x, "is_fully_addressable", True) for x in jax.tree.leaves(state)):
        what = "the step has no mesh" if meshless else "the state lies on devices of this one alone"
        raise TrainingError(
            f"there are {processes.count()} processes, and {what}: each of them would train a "
            "model of its own",
            expected="train_step(..., mesh=mesh, rules=rules), with a mesh of all devices",
            hint='mesh = jax.make_mesh((jax.device_count(),), ("data",))',
        )


def check_alike(step: Step, state: Any, source: Source, options: dict[str, Any]) -> None:
    """Raises on every process where they are about to do different things.

    Args:
      step, state, source: of ``fit``.
      options: its other arguments, by name.
    """
    if processes.count() == 1:
        return
    processes.end_at_once()
    facts = {"the step": _text_of(step)}
    facts["the state"] = "\n".join(
        f"{path_text(path)}: {format_spec(leaf)}"
        for path, leaf in jax.tree.leaves_with_path(specs_of(state, "the state"))
    )
    facts["the data"] = text_of_data(source)
    facts |= {f"the argument {name}": repr(value) for name, value in options.items()}
    processes.agree("fit", facts)


def _text_of(step: Step) -> str:
    if not isinstance(step, TrainStep):
        return getattr(step, "__qualname__", type(step).__name__)
    named = {
        name: getattr(step, name)
        for name in ("model", "accumulate", "clip", "ema", "frozen", "loss_scale", "non_finite")
    }
    lines = [f"{name}={description(repr(value))}" for name, value in named.items()]
    return "\n".join([*lines, f"mesh={step.mesh}"])


def own_rows(source: Source, step: Step) -> Source:
    """The source, or one of the rows alone that devices of this process hold.

    ``Batches`` gather rows by their numbers, so that each process reads its part of memory-mapped
    arrays. Other sources give whole batches on every process.
    """
    if processes.count() == 1 or not isinstance(source, Batches):
        return source
    if not isinstance(step, TrainStep) or step.mesh is None or step.rules is None:
        return source
    return source.of_places(functools.partial(rows_here, step.mesh, step.rules.batch))


def is_called_here(hook: object) -> bool:
    """Whether a hook is one of this process: those that write a file are process 0's alone."""
    return processes.index() == 0 or not getattr(hook, "writes_a_file", False)


class Preemption(contextlib.AbstractContextManager["Preemption"]):
    """SIGTERM to one of several processes, which all end their loops after the same step.

    JAX's preemption service has installed the handler, tells the other processes, and lets them
    find a step that none of them has passed (``reached_preemption_sync_point``). Ctrl-C is
    Python's own here: the processes would save different steps.

    Attributes:
      raised, reason: as those of ``Signals``.
    """

    def __init__(self) -> None:
        self.raised: str | None = None
        self.reason: str | None = None
        self._shapes = Shapes("fit")

    def __exit__(self, *details: object) -> None:
        return None

    def attend(self) -> None:
        """Nothing was postponed."""

    def watched(self, items: Iterator[T]) -> Iterator[T]:
        """The items of a loop; asks before each whether all processes are to end.

        Raises:
          ProcessError: where the first batch of some shapes is not one of them on all processes.
        """
        from jax.experimental import multihost_utils

        for number in _asked:
            # A service that is turned off leaves SIGTERM as it is.
            with contextlib.suppress(RuntimeError):
                if multihost_utils.reached_preemption_sync_point(number):
                    self.raised = self.reason = "SIGTERM"
            item = next(items, None)
            if item is None:
                return
            self._shapes.check(item)
            yield item


def check_end(stopped: str, step: int) -> None:
    """Raises where this process has come to the end of its loop, and others go on."""
    if processes.count() > 1:
        facts = {"the step at which they end": str(step), "why they end": stopped}
        processes.agree("fit", facts, doing=f"at the end of its loop, after step {step}")


def saved_by_all(error: BaseException) -> bool:
    """Whether the state can be saved after an error: only where all processes have met with it."""
    return processes.count() == 1 or isinstance(error, NonFiniteError)


def lost(error: BaseException, manager: CheckpointManager | None) -> ProcessError | None:
    """The error for a process that has gone, if XLA's is of that kind."""
    if not processes.lost_process(error):
        return None
    hint = None
    with contextlib.suppress(CheckpointError):
        # Without the manager's own words, which all processes would have to hear.
        steps = [] if manager is None else steps_in(manager.folder)
        if steps:
            hint = f"start all processes again: they go on from step {steps[-1]}, the newest "
            hint += "checkpoint"
    return processes.ended("fit", error, hint)
