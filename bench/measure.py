"""One row from start to end: contenders built, judged against float64, and timed in turns."""

import math
from typing import Any

import jax
import numpy as np

from .agreement import TENSOR_FLOAT_32, TOLERANCE
from .contenders import FRAMEWORKS, Unavailable, build
from .data import draw
from .floors import floor_seconds
from .leniency import lenient
from .neighbours import mark, share_of_others
from .ops import OPS
from .programs import MODES, Asked, Program, prepare
from .row import Row
from .timing import time_boxed

Result = dict[str, Any]


def measure(row: Row, budget: float, rounds: int) -> Result:
    """Everything about a row, ready to be stored.

    Args:
      budget: seconds to time a mode in, all contenders together.
      rounds: the most calls of a contender.

    Returns:
      The row itself, the floors, other processes' share of the processor, and for each framework
      ``status`` ("ok", "missing", "wrong" or "failed"), ``reason`` where that is not "ok", and
      where it is, a dict for each mode.
    """
    programs, contenders = programs_of(row)
    start = mark()
    for mode in MODES:
        ready = {name: own[mode].run for name, own in programs.items()}
        with lenient():
            timings = time_boxed(ready, budget, rounds)
        for name, timing in timings.items():
            program = programs[name][mode]
            contenders[name][mode] = {
                **timing._asdict(),
                "trace": program.trace,
                "compile": program.compile,
                "temp_bytes": program.temp_bytes,
                "digest": program.digest,
            }
    others = share_of_others(start)
    return {**row.described(), "floor": floors(row), "contenders": contenders, "others": others}


def programs_of(row: Row) -> tuple[dict[str, dict[str, Program]], dict[str, Result]]:
    """The programs of the contenders that are right, and what became of each framework."""
    data = draw(row)
    op = OPS[row.op]
    judge = None if op.judge is None else lambda *values: op.judge(row, *values)
    programs, contenders = {}, {}
    for name in FRAMEWORKS:
        try:
            with lenient():
                contender = build(name, row)
                own = {mode: prepare(contender, Asked(mode, data, judge)) for mode in MODES}
                wrong = [own[mode].disagrees(tolerance(row)) for mode in MODES]
        except Unavailable as reason:
            contenders[name] = {"status": "missing", "reason": str(reason)}
        except Exception as error:  # one framework's trouble is no other's
            contenders[name] = {
                "status": "failed",
                "reason": f"{type(error).__name__}: {error}"[:300],
            }
        else:
            reasons = [f"{mode}: {why}" for mode, why in zip(MODES, wrong, strict=True) if why]
            if reasons:
                contenders[name] = {"status": "wrong", "reason": "; ".join(reasons)}
            else:
                contenders[name] = {"status": "ok"}
                programs[name] = own
    return programs, contenders


def tolerance(row: Row) -> float:
    if row.dtype == "float32" and jax.default_backend() != "cpu":
        return TENSOR_FLOAT_32
    return TOLERANCE[row.dtype]


def floors(row: Row) -> dict[str, float]:
    """Seconds below which no program can be, forward and with the gradients (three times the
    arithmetic)."""
    op = OPS[row.op]
    flops, (forward, gradient) = op.flops(row), traffic(row)
    return {
        "forward": floor_seconds(flops, forward, row.dtype),
        "gradient": floor_seconds(3 * flops, gradient, row.dtype),
    }


def traffic(row: Row) -> tuple[float, float]:
    """Bytes that must move: all arrays once, and with the gradients all of them twice."""
    op, rng = OPS[row.op], np.random.default_rng(0)
    if op.traffic is not None:
        return op.traffic(row)
    with lenient():
        arrays = jax.eval_shape(lambda: _as_arrays(op, row, rng))
    size = jax.numpy.dtype(row.dtype).itemsize
    forward = float(size * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(arrays)))
    return forward, 2 * forward


def _as_arrays(op: Any, row: Row, rng: np.random.Generator) -> Any:
    weights, x = jax.tree.map(jax.numpy.asarray, (op.weights(row, rng), op.inputs(row, rng)))
    return weights, x, op.reference(row, weights, x)
