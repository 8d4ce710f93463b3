"""Directories and files that appear complete under their name, or not at all.

How to read this file: ``atomic_directory`` fills a hidden directory ``.NAME.writing-1a2b3c4d`` and
renames it. The writer holds a lock on it, which the system drops when the process dies, so that
``clean`` can tell an abandoned directory from one that is still being written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no flock, so nothing half-written is cleaned up there
    fcntl = None  # type: ignore[assignment]

# Temporary names say which directory they are for, and what happened to it. Those of checkpoints
# alone: users may have files of similar names in the folder.
_TEMPORARY = re.compile(
    r"\.(?P<name>step_[0-9]{8,})\.(?P<state>writing|replaced|removed)-[0-9a-f]{8}"
)
# To delete a directory.
_TRIES = 5


def new_token() -> str:
    """What tells a temporary name from others. At random: two may write the same step at once."""
    return secrets.token_hex(4)


def writing_name(target: Path, token: str) -> Path:
    """The directory that ``atomic_directory`` fills."""
    return _temporary(target, "writing", token)


def _temporary(target: Path, state: str, token: str | None = None) -> Path:
    return target.parent / f".{target.name}.{state}-{token or new_token()}"


@contextlib.contextmanager
def atomic_directory(target: Path, token: str | None = None) -> Iterator[Path]:
    """A directory to fill, renamed to ``target`` at the end; an existing ``target`` is replaced.

    Everything inside is on the disk before the name is: the caller syncs the files, this function
    the directories. Nothing is left behind if anything fails.

    Args:
      target: its name at the end.
      token: part of its name before, where others have to know it.

    Raises:
      OSError: if the system cannot create, sync or rename it.
    """
    temporary, lock = _create_locked(target, token)
    try:
        yield temporary
        sync(temporary)
        replaced = _rename(temporary, target)
        sync(target.parent)
    except BaseException:
        _discard(temporary, target)
        raise
    finally:
        os.close(lock)
    for previous in replaced:
        _delete(previous)


def _discard(temporary: Path, target: Path) -> None:
    """Deletes a directory that other processes may be writing into."""
    removed = _temporary(target, "removed")
    # Without its name they make no more files in it, but for one that they are just making.
    with contextlib.suppress(OSError):
        temporary.rename(removed)
    for path in (removed, temporary):
        for _ in range(_TRIES):
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break
            time.sleep(0.01)


@contextlib.contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A path to write a file to, renamed to ``target`` at the end; an existing one is replaced.

    Nothing is left behind if anything fails, and an existing file is what it was.

    Raises:
      OSError: if the system cannot create, sync or rename it.
    """
    temporary = _temporary(target, "writing")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(target.parent)


@contextlib.contextmanager
def landmark(folder: Path) -> Iterator[Path]:
    """Something hidden in a folder, by which other processes recognise it; removed at the end.

    ``clean`` takes it for a checkpoint that is being written.

    Raises:
      OSError: if the system cannot make it.
    """
    temporary, lock = _create_locked(folder / "step_00000000")
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def _create_locked(target: Path, token: str | None = None) -> tuple[Path, int]:
    while True:
        temporary = _temporary(target, "writing", token)
        temporary.mkdir()
        try:
            lock = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:
            continue  # removed already, as below
        except OSError:
            temporary.rmdir()
            raise
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


def _rename(temporary: Path, target: Path) -> list[Path]:
    """Renames to ``target`` and returns the new names of the directories it replaced, if any."""
    replaced: list[Path] = []
    # Another process may write the same target, and take its turn between any two of these calls.
    while not _renamed(temporary, target):
        previous = _temporary(target, "replaced")
        try:
            # Directories cannot be swapped in one step; `clean` undoes this if we die in between.
            target.rename(previous)
        except FileNotFoundError:
            continue
        replaced.append(previous)
        try:
            if _renamed(temporary, target):
                break
        except OSError:
            with contextlib.suppress(OSError):
                previous.rename(target)
            raise
    return replaced


def _renamed(temporary: Path, target: Path) -> bool:
    """Renames, unless there is a directory with something in it."""
    try:
        temporary.rename(target)
    except OSError as error:
        # Windows refuses to replace any directory, by PermissionError, and Linux a link to one.
        other = target.is_symlink() or os.name == "nt"
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) or (other and target.is_dir()):
            return False
        raise
    return True


def atomic_remove(target: Path) -> None:
    """Removes a directory, which loses its name before its first file is deleted."""
    removed = _temporary(target, "removed")
    target.rename(removed)
    _delete(removed)


def _delete(path: Path) -> None:
    """Deletes a directory, or a link to one; what cannot be deleted is left for ``clean``."""
    if path.is_symlink():
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def clean(parent: Path) -> None:
    """Removes what dead writers left in a directory, and nothing that a living one is writing."""
    for temporary in sorted(parent.iterdir()):
        match = _TEMPORARY.fullmatch(temporary.name)
        if not match:
            continue
        target = parent / match["name"]
        # Of two processes that clean at once, one finds nothing to do.
        with contextlib.suppress(OSError):
            if match["state"] == "replaced" and not target.exists():
                temporary.rename(target)
            elif match["state"] == "writing":
                _delete_abandoned(temporary)
            else:
                _delete(temporary)


def _delete_abandoned(temporary: Path) -> None:
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        # Locked until it is gone: a writer that has just made it waits for the lock, and looks.
        if _lock(descriptor, wait=False):
            _delete(temporary)
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Brings a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
