"""The soak tests about training as rows: kills, mutated checkpoints and memory.

The tests are those of ``tests/soak``; here each runs in a process of its own, and its figure is
stored beside the timings.
"""

import functools
import pathlib
import subprocess
import sys
import tempfile
from xml.etree import ElementTree

from .noise import mark, share_of_others
from .questions import Answer, Question

ROOT = pathlib.Path(__file__).parents[1]


def answer(test: str, question: str, bound: str, budget: float = 0, rounds: int = 0) -> Answer:
    """Runs a test, whose properties ``figure`` and, if it has one, ``question`` are shown."""
    start = mark()
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-m", "soak", f"--junitxml={report}"]
        subprocess.run([*command, f"tests/soak/{test}"], capture_output=True, cwd=ROOT)
        case = ElementTree.parse(report).find(".//testcase")
    others = share_of_others(start)
    if case is None:
        return Answer(question, f"{test} was not found", bound, False, {}, others)
    properties = {entry.get("name"): entry.get("value", "") for entry in case.iter("property")}
    problems = [*case.iter("failure"), *case.iter("error")]
    message = problems[0].get("message", "failed").splitlines()[0] if problems else ""
    figure = properties.get("figure", message)
    return Answer(properties.get("question", question), figure, bound, not problems, {}, others)


_TESTS = {
    "step-memory": ("test_step_memory.py", "memory of fit over the bare loop", "1.02x"),
    "kill-9": (
        "test_kills.py::test_killed_training_resumes",
        "kill -9 at random moments: resumed from a whole checkpoint, to the same bits",
        "200 of 200",
    ),
    "checkpoint-fuzz": (
        "test_checkpoint_fuzz.py",
        "20,000 mutated checkpoints: refused with a message, or read back exactly",
        "nothing else",
    ),
}
ROWS: dict[str, Question] = {
    name: functools.partial(answer, *test) for name, test in _TESTS.items()
}
