"""Records as JSON lines: one object a line, readable by any program.

How to read this file: ``json_lines`` appends a record by ``_append``, after ``_drop_from`` has
removed what an earlier process wrote of the same steps. ``_lines`` reads a log and refuses other
files; ``_encoded`` and ``_decoded`` are one line.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from ..base.errors import TrainingError, public_api, truncate
from .record import Record, first_new_step

Path: TypeAlias = str | os.PathLike[str]

_COLUMNS = ("step", "epoch", "seconds", "steps_per_second")
# How each of our lines starts, which tells half a line from a file of another kind.
_HEAD = b'{"step": '
_NON_FINITE = ("nan", "inf", "-inf")


@public_api
def json_lines(path: Path) -> Callable[[Record], None]:
    """A function that appends every record to a file, as one JSON object a line: for ``hooks``.

    An object holds "step", "epoch", "seconds" and "steps_per_second", then the metrics by
    name. Numbers are written so that reading gives the same float64; those that JSON cannot
    represent are the strings "nan", "inf" and "-inf". Each line has been passed to the operating
    system when the function returns.

    A record replaces the lines of its own step and later ones, and the first one half a line at the
    end. ``fit`` says with which records it starts: later lines go with the first new one. So the
    log of a process that was killed and resumed is that of one that was not, and training from the
    start starts the log again.

    Args:
      path: the file; it and the folders above it are made with the first record.

    Raises:
      TrainingError: where the file exists and is not such a log; it is left as it is. From the
        function, where the file cannot be written, and where a metric has the name of a column.

    >>> import pathlib, tempfile
    >>> from jlayers import training
    >>> path = pathlib.Path(tempfile.mkdtemp(), "first", "log.jsonl")
    >>> log = training.json_lines(path)
    >>> log(training.Record(10, 0, {"loss": 0.5}, 1.25, 8.0))
    >>> print(path.read_text())
    {"step": 10, "epoch": 0, "seconds": 1.25, "steps_per_second": 8.0, "loss": 0.5}
    """
    # The real path: a later chdir changes nothing, and a link is not replaced by a file.
    file = os.path.realpath(os.fspath(path))
    with _reraised("read", path):
        _lines(file, path)
    last: int | None = None
    first_new: int | None = None

    def on_start(step: int, records: Sequence[Record]) -> None:
        nonlocal first_new
        first_new = first_new_step(step, records)

    @public_api
    def json_lines(record: Record) -> None:
        nonlocal last, first_new
        line = _encoded(record)
        with _reraised("written", path):
            if last is None:
                os.makedirs(os.path.dirname(file), exist_ok=True)
            # Not the first record alone: a loop may go back to a checkpoint.
            if last is None or first_new is not None or record.step <= last:
                step = record.step if first_new is None else min(record.step, first_new)
                _drop_from(step, file, path)
            _append(file, line)
            last, first_new = record.step, None

    json_lines.on_start = on_start  # type: ignore[attr-defined]
    json_lines.writes_a_file = True  # type: ignore[attr-defined]
    return json_lines


@public_api
def read_json_lines(path: Path) -> list[Record]:
    """The records of a file that ``json_lines`` wrote, or is writing.

    Args:
      path: the file. Half a line at its end is left out.

    Raises:
      TrainingError: where the file cannot be read or is not such a log.

    >>> import os, tempfile
    >>> from jlayers import training
    >>> path = os.path.join(tempfile.mkdtemp(), "log.jsonl")
    >>> training.json_lines(path)(training.Record(10, 0, {"loss": float("nan")}, 1.25, 8.0))
    >>> training.read_json_lines(path)
    [Record(step=10, epoch=0, metrics={'loss': nan}, seconds=1.25, steps_per_second=8.0)]
    """
    with _reraised("read", path):
        if not os.path.exists(path):
            raise FileNotFoundError(2, "No such file")
        return [record for _, record in _lines(os.path.realpath(path), path)]


def _encoded(record: Record) -> bytes:
    for name, value in record.metrics.items():
        if not hasattr(value, "__float__"):  # a text has none, and NumPy's numbers have
            raise TrainingError(f"the metric {name!r} must be a number", got=truncate(repr(value)))
        if name in _COLUMNS:
            raise TrainingError(
                f"a metric is named {name!r}, and so is a column of the log",
                expected=f"other names than {', '.join(map(repr, _COLUMNS))}",
                got=truncate(", ".join(map(repr, record.metrics))),
            )
    own = {"seconds": record.seconds, "steps_per_second": record.steps_per_second}
    row: dict[str, object] = {"step": int(record.step), "epoch": int(record.epoch)}
    for name, value in (own | record.metrics).items():
        row[name] = float(value) if math.isfinite(value) else str(float(value))
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def _decoded(line: bytes) -> Record | None:
    """The record of a line, None where it is not one."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    if "rate" in row and "steps_per_second" not in row:
        row["steps_per_second"] = row.pop("rate")  # the name in logs of version 0.1
    if any(name not in row for name in _COLUMNS):
        return None
    step, epoch = row.pop("step"), row.pop("epoch")
    numbers = all(type(x) in (int, float) or x in _NON_FINITE for x in row.values())
    if type(step) is not int or type(epoch) is not int or not numbers:
        return None
    seconds, rate = float(row.pop("seconds")), float(row.pop("steps_per_second"))
    return Record(step, epoch, {name: float(x) for name, x in row.items()}, seconds, rate)


def _lines(file: str, path: Path) -> list[tuple[bytes, Record]]:
    """The complete lines of a log; none where there is no file, or a pipe."""
    # A folder is opened, for the error that the system has for it; a pipe would block.
    if os.path.exists(file) and not os.path.isfile(file) and not os.path.isdir(file):
        return []
    try:
        with open(file, "rb") as opened:
            *texts, last = opened.read().split(b"\n")
    except FileNotFoundError:
        return []
    # A file system may have extended a file with zeros before the machine crashed.
    last = last.rstrip(b"\0")
    lines = []
    for number, text in enumerate([*texts, last], 1):
        record = _decoded(text)
        if record is not None:
            lines.append((text, record))
        elif number <= len(texts) or not (last.startswith(_HEAD) or _HEAD.startswith(last)):
            raise TrainingError(
                f"{os.fspath(path)} is not a log of records",
                expected='one JSON object a line, {"step": 10, "epoch": 0, ...}',
                got=f"line {number}: {truncate(text.decode(errors='replace')) or 'empty'}",
                hint="another path; the file was left as it is",
            )
    return lines


def _drop_from(step: int, file: str, path: Path) -> None:
    """Keeps the lines before ``step``, atomically."""
    if not os.path.isfile(file):
        return
    kept = b"".join(text + b"\n" for text, record in _lines(file, path) if record.step < step)
    if len(kept) == os.path.getsize(file):
        return
    new = f"{file}.new"
    with open(new, "wb") as opened:
        opened.write(kept)
        opened.flush()
        # Before it has the log's name, or a crash of the machine could leave an empty log.
        os.fsync(opened.fileno())
    shutil.copymode(file, new)
    os.replace(new, file)


def _append(file: str, line: bytes) -> None:
    # Opened for each line, so that nothing has to be closed; by system calls, since a Python file
    # makes ten of them instead of three.
    opened = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0))
    try:
        written = os.write(opened, line)
        # A full disk takes a part of the line: it is taken back, so that the log stays whole.
        if written != len(line):
            os.ftruncate(opened, os.fstat(opened).st_size - written)
            raise OSError(28, "No space left on device")
    finally:
        os.close(opened)


@contextlib.contextmanager
def _reraised(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"the log {os.fspath(path)} cannot be {what}",
            got=f"{type(error).__name__}: {error.strerror}",
            hint="another path, or free space on the disk" if what == "written" else None,
        ) from None
