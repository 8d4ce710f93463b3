"""The records of a run as JSON lines: one object a line, readable by any program."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ...base.errors import TrainingError, public_api, truncate
from ..record import Record

Callback = Callable[[Record], None]
Path = str | os.PathLike[str]

_OWN = ("step", "epoch", "seconds", "steps_per_second")
# How each of our lines begins, so that the half of one is told from a file of another kind.
_HEAD = b'{"step": '
_encode = json.JSONEncoder(allow_nan=False).encode
_NON_FINITE = ("nan", "inf", "-inf")


class _Line(NamedTuple):
    text: bytes
    record: Record


@public_api
def json_lines(path: Path) -> Callback:
    """A callback that appends every record to a file, as one JSON object a line.

    An object holds "step", "epoch", "seconds" and "steps_per_second", then the metrics by
    name. Numbers are written so that reading gives the same float64; those that JSON has no
    numbers for are the strings "nan", "inf" and "-inf". Each line is with the operating system
    when the callback returns.

    A record drops the lines of its own step and later ones, and the first one half a line at the
    end. So the log of a run that died and was resumed is that of a run that did not die, and
    a run from the beginning starts the log anew.

    Args:
      path: the file; it and the folders above it are made with the first record.

    Returns:
      A function of a ``Record``.

    Raises:
      TrainingError: where the file is there and is no such log, which is left as it is; from the
        callback, where the file cannot be written, and where a metric has the name of a column.

    >>> import pathlib, tempfile
    >>> from jlayers import training
    >>> path = pathlib.Path(tempfile.mkdtemp(), "run", "log.jsonl")
    >>> log = training.json_lines(path)
    >>> log(training.Record(10, 0, {"loss": 0.5}, 1.25, 8.0))
    >>> print(path.read_text())
    {"step": 10, "epoch": 0, "seconds": 1.25, "steps_per_second": 8.0, "loss": 0.5}
    """
    # The real path, so that a later chdir changes nothing, and a link is not replaced by a file.
    file = os.path.realpath(os.fspath(path))
    with _told("read", path):
        _lines(file, path)
    last: int | None = None

    @public_api
    def json_lines(record: Record) -> None:
        nonlocal last
        line = _text(record)
        with _told("written", path):
            if last is None:
                os.makedirs(os.path.dirname(file), exist_ok=True)
            # Not the first record of a run alone: a run may go back to a checkpoint.
            if last is None or record.step <= last:
                _drop_from(record.step, file, path)
            _append(file, line)
            last = record.step

    return json_lines


@public_api
def read_json_lines(path: Path) -> list[Record]:
    """The records of a file that ``json_lines`` wrote, or is writing.

    Args:
      path: the file. Half a line at its end is left out.

    Raises:
      TrainingError: where the file cannot be read or is no such log.

    >>> import os, tempfile
    >>> from jlayers import training
    >>> path = os.path.join(tempfile.mkdtemp(), "log.jsonl")
    >>> training.json_lines(path)(training.Record(10, 0, {"loss": float("nan")}, 1.25, 8.0))
    >>> training.read_json_lines(path)
    [Record(step=10, epoch=0, metrics={'loss': nan}, seconds=1.25, steps_per_second=8.0)]
    """
    with _told("read", path):
        if not os.path.exists(path):
            raise FileNotFoundError(2, "No such file")
        return [line.record for line in _lines(os.path.realpath(path), path)]


def _text(record: Record) -> bytes:
    taken = [name for name in record.metrics if name in _OWN]
    if taken:
        raise TrainingError(
            f"a metric is named {taken[0]!r}, and so is a column of the log",
            expected=f"other names than {', '.join(map(repr, _OWN))}",
            got=truncate(", ".join(map(repr, record.metrics))),
        )
    row: dict[str, Any] = {"step": int(record.step), "epoch": int(record.epoch)}
    own = {"seconds": record.seconds, "steps_per_second": record.steps_per_second}
    numbers = {**own, **record.metrics}
    for name, value in numbers.items():
        number = float(value)
        row[name] = number if math.isfinite(number) else str(number)
    return _encode(row).encode() + b"\n"


def _record(line: bytes) -> Record | None:
    """The record of a line, None where it holds none."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if isinstance(row, dict) and "steps_per_second" not in row and "rate" in row:
        row["steps_per_second"] = row.pop("rate")  # as logs of version 0.1 have it
    if not isinstance(row, dict) or any(name not in row for name in _OWN):
        return None
    step, epoch = row.pop("step"), row.pop("epoch")
    if type(step) is not int or type(epoch) is not int or not all(map(_is_number, row.values())):
        return None
    seconds, rate = float(row.pop("seconds")), float(row.pop("steps_per_second"))
    metrics = {name: float(value) for name, value in row.items()}
    return Record(step, epoch, metrics, seconds, rate)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) or value in _NON_FINITE


def _lines(file: str, path: Path) -> list[_Line]:
    """The whole lines of a log; none of a file that is not there, nor of a pipe."""
    if os.path.exists(file) and not os.path.isfile(file):
        if os.path.isdir(file):
            raise IsADirectoryError(21, "Is a directory")
        return []
    try:
        with open(file, "rb") as opened:
            *texts, last = opened.read().split(b"\n")
    except FileNotFoundError:
        return []
    # A file system may have made a file longer, with zeros, before the machine died.
    last = last.rstrip(b"\0")
    lines = []
    for number, text in enumerate([*texts, last], 1):
        record = _record(text)
        if record is not None:
            lines.append(_Line(text, record))
        elif number <= len(texts) or not (last.startswith(_HEAD) or _HEAD.startswith(last)):
            raise TrainingError(
                f"{os.fspath(path)} is no log of records",
                expected='one JSON object a line, {"step": 10, "epoch": 0, ...}',
                got=f"line {number}: {truncate(text.decode(errors='replace')) or 'empty'}",
                hint="another path; the file was left as it is",
            )
    return lines


def _drop_from(step: int, file: str, path: Path) -> None:
    """Leaves the lines before ``step`` in the file, whole or not at all."""
    if not os.path.isfile(file):
        return
    kept = b"".join(line.text + b"\n" for line in _lines(file, path) if line.record.step < step)
    if len(kept) == os.path.getsize(file):
        return
    new = f"{file}.new"
    with open(new, "wb") as opened:
        opened.write(kept)
        opened.flush()
        os.fsync(opened.fileno())
    shutil.copymode(file, new)
    os.replace(new, file)


def _append(file: str, line: bytes) -> None:
    # Opened for each line, so that nothing has to be closed; by system calls, since a Python file
    # makes ten of them in the place of three.
    opened = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0))
    try:
        written = os.write(opened, line)
        if written != len(line):
            os.ftruncate(opened, os.fstat(opened).st_size - written)
            raise OSError(28, "No space left on device")
    finally:
        os.close(opened)


@contextlib.contextmanager
def _told(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"the log {os.fspath(path)} cannot be {what}",
            got=f"{type(error).__name__}: {error.strerror}",
            hint="another path, or room on the disk" if what == "written" else None,
        ) from None
