"""Folders that are there whole or not at all, whatever dies while they are written."""

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
except ImportError:  # not there on Windows, where nothing half-written is cleaned up
    fcntl = None  # type: ignore[assignment]

# What a name in the making adds to the name that it is for.
_HALF = re.compile(r"\.(?P<name>.+)\.(?P<why>writing|replaced|removed)-[0-9a-f]{8}")


def _half(target: Path, why: str) -> Path:
    return target.with_name(f".{target.name}.{why}-{secrets.token_hex(4)}")


@contextlib.contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A folder to fill, which takes the name ``target`` when it is done, and replaces what had it.

    All that is inside is on the disk before the name is: the caller syncs the files, and this the
    folders. Where anything fails, nothing is left behind.

    Raises:
      OSError: where the system cannot.
    """
    half, lock = _locked(target)
    try:
        yield half
        _sync(half)
        aside = _renamed(half, target)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    finally:
        os.close(lock)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def _locked(target: Path) -> tuple[Path, int]:
    """A new folder, and a lock on it that the system drops when this process dies, even killed."""
    while True:
        half = _half(target, "writing")
        half.mkdir()
        lock = os.open(half, os.O_RDONLY)
        _lock(lock)
        # Between the two lines above another process may have taken the folder for a dead one's.
        if half.exists():
            return half, lock
        os.close(lock)


def _lock(descriptor: int, *, wait: bool = True) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another holds it, or a file system has no locks
        return False
    return True


def _renamed(half: Path, target: Path) -> Path | None:
    """Gives the new folder its name, and says where the one went that had the name before."""
    try:
        half.rename(target)
        return None
    except OSError:
        if not target.is_dir():
            raise
    # Folders cannot be swapped in one step; `clean` puts this one back if we die in between.
    aside = _half(target, "replaced")
    target.rename(aside)
    try:
        half.rename(target)
    except OSError:
        aside.rename(target)
        raise
    return aside


def remove_whole(target: Path) -> None:
    """Removes a folder; it loses its name before the first file is gone."""
    aside = _half(target, "removed")
    target.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def clean(parent: Path) -> None:
    """Removes what dead writers left in a folder; what a living process is writing stays."""
    for half in sorted(parent.iterdir()):
        match = _HALF.fullmatch(half.name)
        if not match:
            continue
        target = parent / match["name"]
        with contextlib.suppress(OSError):
            if match["why"] == "replaced" and not target.exists():
                half.rename(target)
            elif match["why"] != "writing" or _is_dead(half):
                shutil.rmtree(half, ignore_errors=True)


def _is_dead(half: Path) -> bool:
    descriptor = os.open(half, os.O_RDONLY)
    try:
        return _lock(descriptor, wait=False)
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
