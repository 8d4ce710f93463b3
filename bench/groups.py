"""What can be measured, by the names that users type."""

import difflib
import fnmatch
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .row import Row
from .rows import ROWS

HERE = pathlib.Path(__file__).parent
Measure = Callable[[float, int], dict[str, dict[str, Any]]]


class Entry(NamedTuple):
    """Something to measure.

    Args:
      group: whose file it is stored in.
      what: all that its figures depend on beside the device and the versions, as JSON has it.
      measure: (seconds, most calls) to results by the names of rows; mostly one, its own.
    """

    group: str
    what: Any
    measure: Measure


def entries() -> dict[str, Entry]:
    """Everything by name, in the order in which it is measured and shown."""
    found = {name: Entry(row.group, *_operation(row)) for name, row in ROWS.items()}
    return {**found, **_steps(), **_sequences(), **_training(), **_startup(), **_foundation()}


def groups(found: dict[str, Entry]) -> dict[str, list[str]]:
    """The names of each group."""
    names: dict[str, list[str]] = {}
    for name, entry in found.items():
        names.setdefault(entry.group, []).append(name)
    return names


def choose(asked: Iterable[str], found: dict[str, Entry]) -> list[str]:
    """The names meant by what was typed; all of them where nothing was.

    A word is a row, a group, a pattern ("lstm-*"), or how the names of rows begin up to a dash.
    """
    by_group, chosen = groups(found), {}
    words = list(asked)
    for word in words:
        begun = [name for name in found if name.startswith(f"{word}-")]
        meant = (
            [word]
            if word in found
            else by_group.get(word) or fnmatch.filter(found, word) or begun or _unknown(word, found)
        )
        chosen.update(dict.fromkeys(meant))
    return [name for name in found if name in chosen] if words else list(found)


def _unknown(word: str, found: dict[str, Entry]) -> list[str]:
    names = list(dict.fromkeys([*groups(found), *(name.split("-")[0] for name in found), *found]))
    near = difflib.get_close_matches(word, names, n=5, cutoff=0.4)
    instead = (
        f"did you mean {' or '.join(near)}?" if near else f"groups: {', '.join(groups(found))}"
    )
    sys.exit(f"no such row or group: {word}; {instead}\npython -m bench --list shows all")


def _operation(row: Row) -> tuple[Any, Measure]:
    def measure(budget: float, rounds: int) -> dict[str, Any]:
        from .measure import measure

        return {row.name: measure(row, budget, rounds)}

    return row.described(), measure


def _steps() -> dict[str, Entry]:
    from .whole_steps import measure_step, models

    def entry(name: str, module: Any) -> Entry:
        def measure(budget: float, rounds: int) -> dict[str, Any]:
            return {name: measure_step(module, budget, rounds)}

        return Entry("steps", _source("steps"), measure)

    return {name: entry(name, module) for name, module in models().items()}


def _startup() -> dict[str, Entry]:
    name = f"{__package__}.startup"
    there = importlib.util.find_spec(name) is not None

    def measure(budget: float, rounds: int) -> dict[str, Any]:
        if not there:
            print("nothing measures the start-up yet: there is no bench/startup")
            return {}
        return {
            row: {"op": "startup", "contenders": {who: _started(own) for who, own in all_.items()}}
            for row, all_ in importlib.import_module(name).measure()["rows"].items()
        }

    return {"startup": Entry("startup", _source("startup") if there else {}, measure)}


def _started(own: dict[str, Any]) -> dict[str, Any]:
    """A framework's entry of a start-up row as a contender with the mode "start"."""
    if own.get("seconds") is None:
        return {"status": own.get("status", "missing"), "reason": own.get("reason", "")}
    rest = {name: value for name, value in own.items() if name != "seconds"}
    return {"status": "ok", "start": {"median": own["seconds"], **rest}}


def _foundation() -> dict[str, Entry]:
    from .foundation import ROWS as QUESTIONS

    def entry(name: str) -> Entry:
        def measure(budget: float, rounds: int) -> dict[str, Any]:
            return {name: {"op": "foundation", **QUESTIONS[name]()._asdict()}}

        return Entry("foundation", _source("foundation.py"), measure)

    return {name: entry(name) for name in QUESTIONS}


def _sequences() -> dict[str, Entry]:
    from .sequences import ROWS as QUESTIONS

    def entry(name: str) -> Entry:
        def measure(budget: float, rounds: int) -> dict[str, Any]:
            return {name: {"op": "sequences", **QUESTIONS[name](budget, rounds)._asdict()}}

        what = {**_source("sequences.py"), "by hand": _source("by_hand.py")["source"]}
        return Entry("sequences", what, measure)

    return {name: entry(name) for name in QUESTIONS}


def _training() -> dict[str, Entry]:
    from .training_rows import ROWS as QUESTIONS

    def entry(name: str) -> Entry:
        def measure(budget: float, rounds: int) -> dict[str, Any]:
            return {name: {"op": "training", **QUESTIONS[name](budget, rounds)._asdict()}}

        files = "training_rows", "training_loop", "kills", "checkpointing", "checkpoint_fuzz"
        return Entry("training", {f: _source(f"{f}.py")["source"] for f in files}, measure)

    return {name: entry(name) for name in QUESTIONS}


def _source(name: str) -> dict[str, str]:
    from .device import digest

    return {"source": digest(HERE / name)}
