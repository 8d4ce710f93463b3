"""Writing a checkpoint: each process its own file of arrays, the first one the manifest.

How to read this file: ``fill`` writes the arrays of one process. ``Writing`` makes a checkpoint of
what all of them write: they meet in one hidden directory, where each leaves a note when its file
is on the disk; when all notes are there, the first process writes the manifest and gives the
directory its name. Threads may do this, as the processes tell each other nothing but by files.
With one process there is nothing to wait for.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..base.errors import CheckpointError, ProcessError
from . import manifest
from .atomic import atomic_directory, sync, writing_name
from .formats.base import find
from .group import Group
from .layout import MANIFEST, array_name, directory_name, file_name, has_arrays, hint_for
from .manifest import Manifest
from .parts import Index, Part, check_grid, parse

K = TypeVar("K")
# Seconds between two looks at what others have done: at first, and at most.
_SOON, _LATER = 0.002, 0.1
# Seconds until a new file in a folder of the network is seen everywhere.
_UNSEEN = 60.0


class Snapshot(NamedTuple):
    """What a process has to write, in the memory of the host: arrays by path and place."""

    manifest: Manifest
    arrays: dict[tuple[str, Index], np.ndarray]


class Written(NamedTuple):
    """What a process has written: the bytes of its file, and the parts in it."""

    size: int
    parts: dict[str, list[Part]]


def fill(directory: Path, shot: Snapshot, number: int, count: int) -> Written:
    """Writes the file of arrays of one process, down to the disk.

    Raises:
      OSError: if the system cannot write it.
    """
    file_format = find(shot.manifest.format)
    file = directory / file_name(file_format, number, count)
    # A pass over the data in between would take as long as writing it.
    with _checksums(shot.arrays) as checksums:
        named = {array_name(*key, count): array for key, array in shot.arrays.items()}
        file_format.write(named, file)
        sync(file)
    parts: dict[str, list[Part]] = {}
    for path, index in shot.arrays:
        parts.setdefault(path, []).append(Part(number, index, checksums[path, index]))
    return Written(file.stat().st_size, parts)


class Writing:
    """One checkpoint, while it is written.

    Args:
      folder: where its directory goes.
      shot: what this process writes of it.
      group: the processes that write.
    """

    def __init__(self, folder: Path, shot: Snapshot, group: Group):
        self._folder, self._shot, self._group = folder, shot, group
        self.step, self.metrics = shot.manifest.step, shot.manifest.metrics
        self._target = folder / directory_name(self.step)
        self._directory: Path | None = None
        self._opened = contextlib.ExitStack()

    def open(self, token: str | None = None) -> None:
        """Makes the hidden directory, which the first process does.

        Raises:
          CheckpointError: if it cannot be made.
        """
        with self._system_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            _check_replaceable(self._target)
            self._directory = self._opened.enter_context(atomic_directory(self._target, token))

    def join(self, token: str) -> None:
        """Finds the hidden directory, as the others do.

        Raises:
          CheckpointError: if this process does not see it.
        """
        if self._directory is None:
            self._directory = writing_name(self._target, token)
            wait_until_seen(self._directory, self._group)

    def abandon(self) -> None:
        """Leaves nothing behind."""
        with contextlib.suppress(_AbandonedError), self._opened:
            raise _AbandonedError

    def run(self) -> Path:
        """Writes, and returns the directory of the checkpoint. On any thread.

        Raises:
          CheckpointError: if this process cannot write.
          ProcessError: if another one cannot, or does not for too long.
        """
        with self._system_errors():
            if self._group.index == 0:
                if self._directory is None:
                    self.open()
                with self._opened:
                    self._lead()
            else:
                self._follow()
        return self._target

    def _lead(self) -> None:
        directory, shot = self._known(), self._shot
        written = [fill(directory, shot, 0, self._group.count), *self._others()]
        parts = {path: _joined(path, written, shot.manifest) for path in shot.manifest.leaves}
        sizes = tuple(each.size for each in written)
        content = shot.manifest._replace(parts=parts, sizes=sizes)
        manifest.write(directory / MANIFEST, manifest.text_of(content))
        for number in range(1, self._group.count):
            (directory / _note_name(number)).unlink()

    def _others(self) -> list[Written]:
        """What the others have written, when all of them have."""
        directory, found = self._known(), dict[int, Written]()
        missing = list(range(1, self._group.count))
        watch = _Watch(directory, self._group.patience)
        while missing:
            names = set(os.listdir(directory))
            for number in [n for n in missing if _note_name(n) in names]:
                found[number] = self._read_note(number)
                missing.remove(number)
            if missing and not watch.wait():
                raise ProcessError(
                    f"the checkpoint of step {self.step} was not completed: process "
                    f"{', '.join(map(str, missing))} of {self._group.count} did not write its part",
                    got=f"no progress for {self._group.patience:g} s",
                    hint="look at the output of that process",
                )
        return [found[number] for number in sorted(found)]

    def _read_note(self, number: int) -> Written:
        note = json.loads((self._known() / _note_name(number)).read_text("utf-8"))
        if "error" in note:
            raise ProcessError(
                f"process {number} could not write its part of the checkpoint of step {self.step}",
                got=note["error"],
            )
        return Written(note["size"], {p: [parse(t) for t in ts] for p, ts in note["parts"].items()})

    def _follow(self) -> None:
        directory, number = self._known(), self._group.index
        note = directory / _note_name(number)
        try:
            written = fill(directory, self._shot, number, self._group.count)
            texts = {path: [str(part) for part in parts] for path, parts in written.parts.items()}
            _leave(note, {"size": written.size, "parts": texts})
        except Exception as error:
            if not directory.exists():
                raise ProcessError(
                    f"process 0 has given up the checkpoint of step {self.step}"
                ) from None
            with contextlib.suppress(OSError):
                _leave(note, {"error": str(error)})
            raise
        # Whether the checkpoint is there then is told by the first process, on the main thread.
        watch = _Watch(directory, self._group.patience)
        while directory.exists():
            if not watch.wait():
                raise ProcessError(
                    f"the checkpoint of step {self.step} was not completed: process 0 did not "
                    "write its manifest",
                    got=f"no progress for {self._group.patience:g} s",
                    hint="look at the output of that process",
                )

    def _known(self) -> Path:
        assert self._directory is not None
        return self._directory

    @contextlib.contextmanager
    def _system_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            needed = sum(array.nbytes for array in self._shot.arrays.values())
            raise CheckpointError(
                f"the checkpoint of step {self.step} could not be written: {error.strerror}",
                expected=f"{needed:,} bytes of space in {self._folder}",
                got=str(error),
                hint=hint_for(error),
            ) from error


def wait_until_seen(path: Path, group: Group) -> None:
    """Returns when this process sees what the first one has made.

    Raises:
      CheckpointError: if it does not, since it is in another folder.
    """
    # Before the others give up waiting for this one.
    end = time.monotonic() + min(_UNSEEN, group.patience / 2)
    while not path.exists():
        if time.monotonic() > end:
            raise CheckpointError(
                f"process {group.index} does not see the folder that process 0 writes to",
                got=str(path.parent),
                hint="a folder that all processes share, by an absolute path",
            )
        time.sleep(_SOON)


class _AbandonedError(Exception):
    pass


class _Watch:
    """Waits as long as something changes in a directory."""

    def __init__(self, directory: Path, patience: float):
        self._directory, self._patience = directory, patience
        self._began = self._changed = time.monotonic()
        self._seen: dict[str, int] = {}

    def wait(self) -> bool:
        """Waits for a moment; False if nothing has changed for too long."""
        now = time.monotonic()
        time.sleep(min(_LATER, max(_SOON, (now - self._began) / 50)))
        found = {}
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            found = {entry.name: entry.stat().st_size for entry in entries}
        if found != self._seen:
            self._seen, self._changed = found, now
        return now - self._changed <= self._patience


def _note_name(number: int) -> str:
    return f"part-{number:05d}.json"


def _leave(note: Path, content: dict[str, Any]) -> None:
    """Writes a note that is there as a whole, or not at all."""
    temporary = note.with_suffix(".tmp")
    temporary.write_text(json.dumps(content), "utf-8")
    sync(temporary)
    temporary.rename(note)


def _joined(path: str, written: list[Written], content: Manifest) -> tuple[Part, ...]:
    parts = sorted(
        (part for each in written for part in each.parts.get(path, ())),
        key=lambda part: (part.place, part.file),
    )
    try:
        check_grid(content.leaves[path].shape, [part.place for part in parts])
    except ValueError as error:
        raise CheckpointError(
            f"what the processes have written of {path!r} is not the whole array: {error}",
            expected=f"parts of {content.leaves[path]}",
            got=", ".join(f"[{p}]" for p in map(str, parts[:8])) or "nothing",
            hint="the same tree on every process, with arrays over the devices of all of them",
        ) from None
    return tuple(parts)


def _check_replaceable(target: Path) -> None:
    """Raises for a directory that has a checkpoint's name, and is something else of the user's."""
    # Another process that writes the same step puts its directory where the old one was: only what
    # stays in the way is the user's.
    for _ in range(5):
        if (target / MANIFEST).exists() or has_arrays(target):
            return
        with contextlib.suppress(FileNotFoundError):
            if target.is_dir() and any(target.iterdir()):
                time.sleep(_SOON)
                continue
        return
    raise CheckpointError(
        f"{target.name} is in the way: a directory that is not a checkpoint",
        got=str(target),
        hint="rename it, or use another folder",
    )


@contextlib.contextmanager
def _checksums(arrays: Mapping[K, np.ndarray]) -> Iterator[dict[K, int]]:
    """Checksums, computed on a thread while the block writes; complete when it ends."""
    result: dict[K, int] = {}

    def compute() -> None:
        result.update((key, checksum(array)) for key, array in arrays.items())

    thread = threading.Thread(target=compute, name="checkpoint-checksums")
    # When Python is exiting, it starts no more threads.
    with contextlib.suppress(RuntimeError):
        thread.start()
    try:
        yield result
    finally:
        compute() if thread.ident is None else thread.join()


# CRC-32 finds what a disk or a transfer does to bytes. It does not protect from intent, which could
# compute any other checksum as well. zlib lets other threads run while it computes.
def checksum(array: np.ndarray) -> int:
    """The CRC-32 of the bytes of a contiguous array."""
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)
