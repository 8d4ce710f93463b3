"""Several processes: what they tell each other, and what happens where one of them fails.

How to read this file: ``exchange`` is one collective over all processes, on the host's values, with
a time limit; ``agree`` compares what they give. ``lost_process`` recognises what XLA says where
another process has gone, and ``end_at_once`` sees to it that a process which fails does not wait
for others that wait for it.

Collectives must be launched in the same order on every process, so all of this is for the main
thread, where no step is under way.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np

from .errors import ProcessError, truncate, warn

T = TypeVar("T")
# Seconds to wait for the others; ``sharding.initialize(timeout=)`` sets it.
_patience = 300.0
# What fits is exchanged by one collective, and not by one for the length and one for the value.
_AT_ONCE = 1024
# Seconds that a checkpoint which is being written gets when its process fails.
_LAST_WRITE = 30.0
# Characters of what XLA says, which ends with why.
_SHOWN = 240
# Of gloo, NCCL and the coordination service, in the words of XLA.
_LOST = re.compile(
    r"gloo|nccl|peer|connection (closed|reset|refused)|socket|heartbeat|coordination|UNAVAILABLE",
    re.IGNORECASE,
)


def count() -> int:
    """How many processes there are: 1 where ``jax.distributed`` was not initialised."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """The number of this process, from 0."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def set_patience(seconds: float) -> None:
    """How long ``exchange`` waits by default."""
    global _patience
    _patience = seconds


def patience() -> float:
    """Seconds to wait for other processes, where nothing else is said."""
    return _patience


def exchange(where: str, value: Any, timeout: float | None = None, *, doing: str = "") -> list[Any]:
    """What each process gives, in their order.

    Args:
      where: what the processes do there, for the error.
      value: a JSON value.
      timeout: seconds to wait for the others.
      doing: what this process does there, in the error of one that waits in vain.

    Raises:
      ProcessError: where not all of them come in time, or another one has ended.

    >>> exchange("an example", {"step": 3})
    [{'step': 3}]
    """
    text = json.dumps(value)
    if count() == 1:
        return [json.loads(text)]
    own = text.encode()
    seconds = patience() if timeout is None else timeout
    words = _gathered(_filled(own, _AT_ONCE), where, seconds, doing)
    sizes = [int.from_bytes(row[:8].tobytes(), "little") for row in words]
    if max(sizes) > _AT_ONCE - 8:
        # By powers of two, so that few programs are compiled.
        room = 1 << (max(sizes) + 7).bit_length()
        words = _gathered(_filled(own, room), where, seconds, doing)
    return [json.loads(row[8 : 8 + size].tobytes()) for row, size in zip(words, sizes, strict=True)]


def agree(where: str, facts: Mapping[str, str], *, doing: str = "") -> None:
    """Raises on every process where a fact is not the same on all of them.

    Args:
      where: what the processes do there, for the error.
      facts: texts by name, such as the ``repr`` of a model; the first that differs is named.
      doing: as for ``exchange``.

    Raises:
      ProcessError: names the fact, and what it is on two of the processes.

    >>> agree("an example", {"model": "Dense(4)"})
    """
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in facts.items()}
    found = exchange(where, digests, doing=doing)
    if all(one == found[0] for one in found):
        return
    names = dict.fromkeys(name for one in found for name in one)
    name = next(name for name in names if len({one.get(name) for one in found}) > 1)
    other = next(i for i, one in enumerate(found) if one.get(name) != found[0].get(name))
    # Everybody comes here, since everybody has seen the same digests.
    texts = exchange(where, facts.get(name, "nothing"))
    mine, theirs = _from_difference(texts[0], texts[other])
    raise _error(
        where,
        f"the processes differ in {name}",
        expected=f"process 0 has {mine}",
        got=f"process {other} has {theirs}",
        hint="start the same program with the same arguments and data on every process",
    )


def warn_once(text: str) -> None:
    """A warning that all processes have come to, by the first of them."""
    if index() == 0:
        warn(text)


def lost_process(error: BaseException) -> bool:
    """Whether an error of XLA may come from another process that has ended."""
    return (
        count() > 1
        and isinstance(error, jax.errors.JaxRuntimeError)
        and _LOST.search(str(error)) is not None
    )


def ended(where: str, error: BaseException, hint: str | None = None) -> ProcessError:
    """The error on a process that has lost another one, from XLA's own."""
    first = str(error).strip().splitlines() or [type(error).__name__]
    return _error(
        where,
        f"process {index()} has lost another of the {count()} processes",
        got=" ".join(first[0].split())[:_SHOWN],
        hint=hint or "look at the output of the others for the one that ended first",
    )


def end_at_once() -> None:
    """Lets a process that ends by an error do so at once; once for each process.

    At its end JAX waits minutes for all other processes. They wait in a collective for this
    one, which they would only miss when it has gone.
    """
    if count() > 1 and not isinstance(sys.excepthook, functools.partial):
        sys.excepthook = functools.partial(_end, sys.excepthook)


def _end(
    report: Any, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    report(kind, error, trace)
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(_LAST_WRITE)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130 if issubclass(kind, KeyboardInterrupt) else 1)


def _filled(content: bytes, room: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    row = np.zeros(room, np.uint8)
    whole = len(content).to_bytes(8, "little") + content
    row[: min(len(whole), room)] = np.frombuffer(whole[:room], np.uint8)
    return row


def ready(where: str, tree: T) -> T:
    """``jax.block_until_ready`` with a time limit, for a program of all processes.

    Raises:
      ProcessError: where it does not end in time, since another process runs something else.
    """
    problem = f"a program of all {count()} processes has not ended"

    def wait() -> T:
        return jax.block_until_ready(tree)  # type: ignore[no-any-return]

    # Longer than ``exchange``, so that a process which waits elsewhere for this one speaks first.
    return _within(wait, where, 1.5 * patience(), problem, "in it")


def _gathered(
    row: np.ndarray[Any, Any], where: str, seconds: float, doing: str
) -> np.ndarray[Any, Any]:
    """The rows of all processes."""
    from jax.experimental import multihost_utils

    def gather() -> np.ndarray[Any, Any]:
        return np.asarray(multihost_utils.process_allgather(row))

    problem = f"not all of the {count()} processes came"
    try:
        return _within(gather, where, seconds, problem, doing)
    except jax.errors.JaxRuntimeError as error:
        raise ended(where, error) from error


def _within(function: Callable[[], T], where: str, seconds: float, problem: str, doing: str) -> T:
    """What a function returns, on a thread that is left behind after a while."""
    result: list[T] = []
    raised: list[Exception] = []

    def call() -> None:
        try:
            result.append(function())
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=call, name="processes", daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if result:
        return result[0]
    raise _error(
        where,
        f"{problem} within {seconds:g} s",
        got=f"process {index()} has waited {doing}".strip(),
        hint="look at the output of the others: one may have failed, or do something else; "
        "sharding.initialize(timeout=) allows more time",
    )


def _error(where: str, problem: str, **more: str | None) -> ProcessError:
    error = ProcessError(problem, **more)
    error.attribute_to(where)
    return error


def _from_difference(one: str, other: str) -> tuple[str, str]:
    """Two texts from shortly before where they differ, as much as an error can show."""
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    start = min(len(one), len(other)) if start is None else start
    start = max(0, start - 20)
    dots = "..." if start else ""
    return tuple(dots + truncate(text[start : start + 100] or "''") for text in (one, other))  # type: ignore[return-value]
