"""Which algorithm computes an operation, and why: chosen by static rules, recorded on request.

Each operation has a function ``choose_<operation>(shapes, ..., platform)`` that looks at static
shapes and the platform alone, so the choice is fixed when the program is traced. The thresholds in
these functions are measured: docs/notes/0008 and 0009, docs/benchmarks.md. ``jl.explain`` shows the
choices by tracing a model inside ``recording``.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class AlgorithmChoice(NamedTuple):
    """An algorithm and the reason for it, in words."""

    method: str
    reason: str


class Record(NamedTuple):
    """One call of a core function.

    Attributes:
      operation: the core function's name.
      choice: what runs on the platform that is asked about.
    """

    operation: str
    choice: AlgorithmChoice


# Context variables and not arguments: the core functions are called from inside layers, which
# know nothing of who is recording. They are local to a thread, as tracing is.
_records: contextvars.ContextVar[list[Record] | None] = contextvars.ContextVar(
    "jlayers_choices", default=None
)
_platform: contextvars.ContextVar[str] = contextvars.ContextVar("jlayers_platform", default="cpu")


@contextlib.contextmanager
def recording(platform: str) -> Iterator[list[Record]]:
    """Collects the choices of the core functions that are traced inside, for ``platform``."""
    records: list[Record] = []
    tokens = _records.set(records), _platform.set(platform)
    try:
        yield records
    finally:
        _records.reset(tokens[0])
        _platform.reset(tokens[1])


def record_choice(
    operation: str, cpu: AlgorithmChoice, default: AlgorithmChoice, method: str | None
) -> None:
    """Records a call, inside ``recording``; a ``method`` that the caller gave overrides the choice.

    Args:
      operation: the core function's name.
      cpu: the choice on CPU.
      default: the choice on all other platforms.
      method: the core function's own argument of this name.
    """
    # Looking up a context variable is all that a call costs while nothing is recorded.
    records = _records.get()
    if records is None:
        return
    if method is not None:
        choice = AlgorithmChoice(method, "given by method=")
    else:
        choice = cpu if _platform.get() == "cpu" else default
    records.append(Record(operation, choice))


def check_method(method: str | None, methods: Sequence[str], operation: str) -> None:
    """Raises a ``ValueError`` unless ``method`` is None or one of ``methods``."""
    if method is not None and method not in methods:
        names = ", ".join(map(repr, methods))
        raise ValueError(f"{operation} has no method {method!r} for these arguments, but {names}")
