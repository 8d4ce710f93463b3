"""A row of one operation as an item of the plan."""

from functools import partial
from typing import Any

from ..data import draw
from ..measure import checked, timed, traffic
from ..row import Row
from .item import Item, Result, Submit
from .variants import Builder, candidates

# What a row takes as one of several, most of it to compile.
SECONDS = 6.0


def operation(row: Row) -> Item:
    what = {**row.described(), "candidates": list(candidates(row))}
    return Item(row.group, what, SECONDS, partial(_prepare, row), partial(_finish, row))


def _prepare(row: Row, submit: Submit) -> Any:
    data, moved = submit(lambda: draw(row)), submit(lambda: traffic(row))

    def program(make: Builder) -> Any:
        return submit(lambda: checked(make, row, data.result()))

    builders = candidates(row)
    programs = {name: program(make) for name, make in builders.items() if name != "torch"}
    return data, moved, programs, builders.get("torch")


def _finish(row: Row, prepared: Any, budget: float, rounds: int) -> dict[str, Result]:
    data, moved, programs, torch = prepared
    made = {name: program.result() for name, program in programs.items()}
    # By itself: what it runs would disturb XLA, which times algorithms while it compiles.
    if torch is not None:
        made["torch"] = checked(torch, row, data.result())
    result = timed(row, made, budget, rounds, moved.result(), queue=True)
    return {row.name: without_compilation(result)}


def without_compilation(result: Result) -> Result:
    """Without the seconds to trace and to compile, which threads that compete do not measure."""
    for framework in result["frameworks"].values():
        for timing in framework.values():
            if isinstance(timing, dict):
                timing.pop("trace", None)
                timing.pop("compile", None)
    return result
