"""Which algorithm computes an operation, and why: chosen by static rules, recorded on request."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Choice(NamedTuple):
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
    choice: Choice


_records: contextvars.ContextVar[list[Record] | None] = contextvars.ContextVar(
    "jlayers_choices", default=None
)
_platform: contextvars.ContextVar[str] = contextvars.ContextVar("jlayers_platform", default="cpu")


@contextlib.contextmanager
def recording(platform: str) -> Iterator[list[Record]]:
    """Collects the choices made by core functions that are traced inside, for ``platform``."""
    records: list[Record] = []
    tokens = _records.set(records), _platform.set(platform)
    try:
        yield records
    finally:
        _records.reset(tokens[0])
        _platform.reset(tokens[1])


def record(operation: str, on_cpu: Choice, elsewhere: Choice, given: str | None) -> None:
    """Notes a call, if somebody is recording; ``given`` is the method that the caller named."""
    records = _records.get()
    if records is None:
        return
    if given is not None:
        choice = Choice(given, "given by method=")
    else:
        choice = on_cpu if _platform.get() == "cpu" else elsewhere
    records.append(Record(operation, choice))


def check_method(method: str | None, methods: Sequence[str], operation: str) -> None:
    """Raises a ``ValueError`` unless ``method`` is None or one of ``methods``."""
    if method is not None and method not in methods:
        names = ", ".join(map(repr, methods))
        raise ValueError(f"{operation} has no method {method!r} for these arguments, but {names}")
