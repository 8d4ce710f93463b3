"""One row from start to end: built in every framework, checked, and timed in turns.

``measure`` is for an operation, which is checked against a float64 reference, and ``measure_step``
for a whole training step, whose first losses are compared with the other frameworks'. A framework
that is missing, fails or computes something else is reported with the reason and has no time.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from .agreement import deviating_losses, tolerance
from .data import default_promotion, draw
from .floors import floor_seconds
from .frameworks import FRAMEWORKS, Unavailable, build
from .noise import mark, share_of_others
from .ops import OPS
from .program import MODES, Program, Task
from .row import Row
from .timing import Timing, queued, time_boxed

Result = dict[str, Any]
Builders = Mapping[str, Callable[[], Any]]
# A status with its reason, and what was made, None where that failed.
Made = tuple[Result, Any]


def attempt(make: Callable[[], Any]) -> Made:
    """What ``make`` gives, and its status: "ok", "missing" or "failed", with the reason."""
    try:
        with default_promotion():
            return {"status": "ok"}, make()
    except (Unavailable, ModuleNotFoundError) as reason:
        return {"status": "missing", "reason": str(reason)}, None
    except Exception as error:  # the other frameworks go on
        reason = f"{type(error).__name__}: {error}"[:300]
        return {"status": "failed", "reason": reason}, None


def measure(
    row: Row, budget: float, rounds: int, frameworks: Iterable[str] | None = None
) -> Result:
    """Everything about a row, ready to be stored.

    Args:
      budget: seconds to time a mode in, all frameworks together.
      rounds: the most calls of a framework.
      frameworks: which of them; all by default.

    Returns:
      The row itself, the floors, other processes' share of the processor, and for each framework
      ``status`` ("ok", "missing", "wrong" or "failed"), ``reason`` where that is not "ok", and
      where it is, a dict for each mode.
    """
    return timed(row, programs_of(row, frameworks), budget, rounds, traffic(row))


def timed(
    row: Row,
    made: Mapping[str, Made],
    budget: float,
    rounds: int,
    moved: tuple[float, float],
    queue: bool = False,
) -> Result:
    """The result of a row.

    Args:
      made: its programs, by framework or candidate.
      moved: as from ``traffic``.
      queue: whether calls are queued, as in ``timing.queued``.
    """
    programs, results = right(made)
    start = mark()
    for mode in MODES:
        ready: dict[str, Any] = {name: own[mode].run for name, own in programs.items()}
        with default_promotion():
            timings = (queued if queue else time_boxed)(ready, budget, rounds)
        for name, timing in timings.items():
            program = programs[name][mode]
            results[name][mode] = {**_figures(timing, program), "digest": program.digest}
    others = share_of_others(start)
    return {**row.described(), "floor": floors(row, moved), "frameworks": results, "others": others}


def _figures(timing: Timing, timed: Any) -> dict[str, Any]:
    """The figures of a ``Program`` or ``Step``, as they are stored."""
    compiled = {name: getattr(timed, name) for name in ("trace", "compile", "temp_bytes")}
    return timing._asdict() | compiled


def programs_of(row: Row, frameworks: Iterable[str] | None = None) -> dict[str, Made]:
    """The programs of each framework, checked."""
    data, names = draw(row), FRAMEWORKS if frameworks is None else frameworks
    return {name: checked(functools.partial(build, name, row), row, data) for name in names}


def checked(make: Callable[[], Any], row: Row, data: Any) -> Made:
    """The status of an implementation that ``make`` builds, and its programs with their verdict."""
    return attempt(lambda: checked_programs(make(), row, data))


def right(made: Mapping[str, Made]) -> tuple[dict[str, dict[str, Program]], dict[str, Result]]:
    """The programs that are right, and the status of all."""
    programs, results = {}, {}
    for name, (result, own) in made.items():
        results[name] = result
        if own is not None and own[1]:
            results[name] = {"status": "wrong", "reason": "; ".join(own[1])}
        elif own is not None:
            programs[name] = own[0]
    return programs, results


def checked_programs(made: Any, row: Row, data: Any) -> tuple[dict[str, Program], list[str]]:
    """The programs by mode, and where their results are wrong."""
    own = {mode: made.program(Task(row, mode, data)) for mode in MODES}
    wrong = {mode: program.disagrees(tolerance(row.dtype)) for mode, program in own.items()}
    return own, [f"{mode}: {why}" for mode, why in wrong.items() if why]


def floors(row: Row, moved: tuple[float, float]) -> dict[str, float]:
    """The least possible seconds of each mode; gradients need three times the arithmetic."""
    flops = OPS[row.op].flops(row)
    needs = zip(MODES, (flops, 3 * flops), moved, strict=True)
    return {mode: floor_seconds(operations, size, row.dtype) for mode, operations, size in needs}


def traffic(row: Row) -> tuple[float, float]:
    """Bytes that must move: all arrays once, and with the gradients all of them twice."""
    op, rng = OPS[row.op], np.random.default_rng(0)
    if op.traffic is not None:
        return op.traffic(row)

    def arrays() -> Any:
        weights, x = jax.tree.map(jax.numpy.asarray, (op.weights(row, rng), op.inputs(row, rng)))
        return weights, x, op.reference(row, weights, x)

    with default_promotion():
        shapes = jax.tree.leaves(jax.eval_shape(arrays))
    size = jax.numpy.dtype(row.dtype).itemsize
    forward = float(size * sum(math.prod(leaf.shape) for leaf in shapes))
    return forward, 2 * forward


def measure_step(
    title: str,
    builders: Builders,
    budget: float,
    rounds: int,
    judged: int | None = None,
    needs: tuple[float, float] | None = None,
) -> Result:
    """A whole step's row, ready to be stored: for each framework a status and the mode "step".

    Args:
      builders: names of frameworks to what builds their ``Step``.
      judged: how many of the first losses are compared; all of them by default.
      needs: the FLOPs and the bytes of a step, where they are known.
    """
    made = {name: attempt(build) for name, build in builders.items()}
    row = timed_steps(title, made, budget, rounds, judged)
    return row if needs is None else row | {"floor": {"step": floor_seconds(*needs, "float32")}}


def timed_steps(
    title: str,
    made: Mapping[str, Made],
    budget: float,
    rounds: int,
    judged: int | None = None,
    queue: bool = False,
) -> Result:
    """The result of steps that are ``made``; with ``queue``, those are queued that can be."""
    results = {name: result for name, (result, _) in made.items()}
    steps = {name: step for name, (_, step) in made.items() if step is not None}
    losses = {name: step.first_losses[:judged] for name, step in steps.items()}
    for name, reason in deviating_losses(losses).items():
        results[name] = {"status": "wrong", "reason": reason}
    ready = {name: step.run for name, step in steps.items() if results[name]["status"] == "ok"}
    queue = queue and all(steps[name].queues for name in ready)
    start = mark()
    with default_promotion():
        timings = (queued if queue else time_boxed)(ready, budget, rounds)
    share = share_of_others(start)
    for name, timing in timings.items():
        results[name]["step"] = _figures(timing, steps[name])
    return {"op": "step", "model": title, "frameworks": results, "others": share}
