"""What can be measured, by the names that users type."""

import difflib
import fnmatch
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from . import (
    checkpointing,
    decoding,
    first,
    foundation,
    growth,
    library,
    sequences,
    soak,
    startup,
    streaming,
    training_loop,
)
from .device import digest
from .measure import measure, measure_step
from .questions import Question
from .row import Row
from .rows import ROWS
from .steps.table import STEPS

HERE = pathlib.Path(__file__).parent
Measure = Callable[[float, int], dict[str, dict[str, Any]]]


class Entry(NamedTuple):
    """Something to measure.

    Args:
      group: whose file it is stored in.
      what: all that its figures depend on besides the device and the versions, as JSON has it.
      measure: (seconds, most calls) to results by the names of rows; mostly one, its own.
    """

    group: str
    what: Any
    measure: Measure


def entries() -> dict[str, Entry]:
    """Everything by name, in the order in which it is measured and shown."""
    return {
        **{name: operation(row) for name, row in ROWS.items()},
        **_steps(),
        **_rows("decoding", decoding.ROWS, "decoding.py", "frameworks"),
        **_questions("sequences", sequences.ROWS, "sequences.py", "frameworks/lax/models.py"),
        **_questions("streaming", streaming.ROWS, "streaming.py", "frameworks/jlayers/models.py"),
        **_questions("library", library.ROWS, "library.py"),
        **_questions("training", training_loop.ROWS, "training_loop.py"),
        **_questions("training", checkpointing.ROWS, "checkpointing.py"),
        **_questions("training", soak.ROWS, "soak.py", "../tests/soak"),
        "startup": Entry("startup", _sources("startup.py"), _startup),
        **_rows("first", first.ROWS, "first.py", "steps", "frameworks"),
        **_questions("first", first.QUESTIONS, "first.py"),
        **_questions("first", growth.ROWS, "growth.py"),
        **_questions("first", {"import": startup.import_cost}, "startup.py"),
        **_questions("foundation", foundation.ROWS, "foundation.py"),
    }


def groups(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of each group."""
    names: dict[str, list[str]] = {}
    for name, entry in found.items():
        names.setdefault(entry.group, []).append(name)
    return names


def choose(words: Iterable[str], found: Mapping[str, Any], program: str = "bench") -> list[str]:
    """The names that match the words; all names where there are no words.

    A word is a row, a group, a pattern ("lstm-*"), or the start of names up to a dash.

    Args:
      found: entries with a ``group``, by name.
      program: the module that is run, for the text of an error.
    """
    by_group, chosen = groups(found), set[str]()
    words = list(words)
    for word in words:
        started = [name for name in found if name.startswith(f"{word}-")]
        matches = [word] if word in found else by_group.get(word) or fnmatch.filter(found, word)
        chosen.update(matches or started or _unknown(word, found, program))
    return [name for name in found if name in chosen] if words else list(found)


def _unknown(word: str, found: Mapping[str, Any], program: str) -> list[str]:
    names = list(dict.fromkeys([*groups(found), *(name.split("-")[0] for name in found), *found]))
    near = difflib.get_close_matches(word, names, n=5, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"groups: {', '.join(groups(found))}"
    sys.exit(f"no such row or group: {word}; {hint}\npython -m {program} --list shows all")


def operation(row: Row) -> Entry:
    return Entry(row.group, row.described(), lambda *limits: {row.name: measure(row, *limits)})


def _steps() -> dict[str, Entry]:
    def measure_row(name: str, budget: float, rounds: int) -> dict[str, Any]:
        step, limits = STEPS[name], (budget, rounds)
        made = measure_step(step.title, step.builders(), *limits, step.judged, step.needs())
        return {name: made}

    what = _sources("steps", "frameworks")
    return {name: Entry("steps", what, partial(measure_row, name)) for name in STEPS}


def _questions(group: str, rows: Mapping[str, Question], *files: str) -> dict[str, Entry]:
    def measure_row(name: str, budget: float, rounds: int) -> dict[str, Any]:
        return {name: {"op": group, **rows[name](budget, rounds)._asdict()}}

    what = _sources(*files)
    return {name: Entry(group, what, partial(measure_row, name)) for name in rows}


def _rows(group: str, rows: Mapping[str, Any], *files: str) -> dict[str, Entry]:
    """Rows with times by framework: name to (seconds, most calls) to the row."""

    def measure_row(name: str, budget: float, rounds: int) -> dict[str, Any]:
        return {name: rows[name](budget, rounds)}

    what = _sources(*files)
    return {name: Entry(group, what, partial(measure_row, name)) for name in rows}


def _startup(budget: float, rounds: int) -> dict[str, Any]:
    return {row: {"op": "startup", "frameworks": f} for row, f in startup.measure().items()}


def _sources(*names: str) -> dict[str, str]:
    return {name: digest(HERE / name) for name in names}
