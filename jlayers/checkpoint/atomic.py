"""Directories that appear complete under their name, or not at all, whatever dies while writing.

How to read this file: ``atomic_directory`` fills a hidden directory ``.NAME.writing-1a2b3c4d`` and
renames it. The writer holds a lock on it, which the system drops when the process dies, so that
``clean`` can tell an abandoned directory from one that is still being written.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no flock, so nothing half-written is cleaned up there
    fcntl = None  # type: ignore[assignment]

# Temporary names say which directory they are for, and what happened to it.
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<state>writing|replaced|removed)-[0-9a-f]{8}")


def _temporary(target: Path, state: str) -> Path:
    # At random: two processes may write the same step at once.
    return target.with_name(f".{target.name}.{state}-{secrets.token_hex(4)}")


@contextlib.contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """A directory to fill, renamed to ``target`` at the end; an existing ``target`` is replaced.

    Everything inside is on the disk before the name is: the caller syncs the files, this function
    the directories. Nothing is left behind if anything fails.

    Raises:
      OSError: if the system cannot create, sync or rename it.
    """
    temporary, lock = _create_locked(target)
    try:
        yield temporary
        sync(temporary)
        previous = _rename(temporary, target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(lock)
    if previous is not None:
        shutil.rmtree(previous, ignore_errors=True)


def _create_locked(target: Path) -> tuple[Path, int]:
    while True:
        temporary = _temporary(target, "writing")
        temporary.mkdir()
        lock = os.open(temporary, os.O_RDONLY)
        _lock(lock)
        # Before it was locked, another process may have removed it as abandoned.
        if temporary.exists():
            return temporary, lock
        os.close(lock)


def _lock(descriptor: int, *, wait: bool = True) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another process holds it, or the file system has no locks
        return False
    return True


def _rename(temporary: Path, target: Path) -> Path | None:
    """Renames to ``target`` and returns the new name of the directory it replaced, if any."""
    try:
        temporary.rename(target)
        return None
    except OSError:
        if not target.is_dir():
            raise
    # Directories cannot be swapped in one step; `clean` undoes the first if we die in between.
    previous = _temporary(target, "replaced")
    target.rename(previous)
    try:
        temporary.rename(target)
    except OSError:
        previous.rename(target)
        raise
    return previous


def atomic_remove(target: Path) -> None:
    """Removes a directory, which loses its name before its first file is deleted."""
    removed = _temporary(target, "removed")
    target.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def clean(parent: Path) -> None:
    """Removes what dead writers left in a directory, and nothing that a living one is writing."""
    for temporary in sorted(parent.iterdir()):
        match = _TEMPORARY.fullmatch(temporary.name)
        if not match:
            continue
        target = parent / match["name"]
        with contextlib.suppress(OSError):
            if match["state"] == "replaced" and not target.exists():
                temporary.rename(target)
            elif match["state"] != "writing" or _is_abandoned(temporary):
                shutil.rmtree(temporary, ignore_errors=True)


def _is_abandoned(temporary: Path) -> bool:
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        return _lock(descriptor, wait=False)
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Brings a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
