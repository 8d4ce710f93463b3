"""What a folder of checkpoints looks like: names of directories, of files, and of arrays in them.

How to read this file: ``steps_in`` lists a folder. A checkpoint has a manifest and a file of arrays
(``file_name``), or one file for each process that wrote, in which an array's part has its place in
its name (``array_name``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path

from ..base.errors import CheckpointError
from .formats.base import Format
from .parts import Index, index_text
from .tree import stored_name

MANIFEST = "manifest.json"
# As ``directory_name`` makes them. Steps of more than 8 digits have longer names.
_NAME = re.compile(r"step_([0-9]{8,})")


def directory_name(step: int) -> str:
    """
    >>> directory_name(400)
    'step_00000400'
    """
    return f"step_{step:08d}"


def steps_in(folder: Path) -> list[int]:
    """The steps of all complete checkpoints in a folder, in order; none where there is no folder.

    Raises:
      CheckpointError: if the system cannot list the folder. It may hold checkpoints then.
    """
    names: list[str] = []
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            names = os.listdir(folder)
    except OSError as error:
        raise CheckpointError(
            f"the folder of checkpoints cannot be read: {error.strerror}",
            got=str(folder),
            hint=hint_for(error),
        ) from error
    steps = [int(match[1]) for match in map(_NAME.fullmatch, names) if match]
    # A directory of another form of the number (more zeros) is not one of ours.
    named = {directory_name(step): step for step in steps}
    return sorted(named[name] for name in named.keys() & set(names) if _is_complete(folder / name))


def _is_complete(directory: Path) -> bool:
    # Every directory of such a name is, unless somebody deleted a file from it.
    try:
        return (directory / MANIFEST).exists() and has_arrays(directory)
    except OSError:
        return True  # whoever reads it is told why it cannot be read


def has_arrays(directory: Path) -> bool:
    """Whether a directory holds a file of arrays, also in a format that is not registered here."""
    try:
        return any(name.startswith(("arrays.", "arrays-")) for name in os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_shortage(error: OSError) -> bool:
    """Whether the process lacks something for now, which says nothing of the file."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def hint_for(error: OSError) -> str:
    """What to do about an error of the system."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "close files, or raise the limit of open ones (ulimit -n)"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free space, or use another folder; earlier checkpoints are still complete"
    return "a folder that can be read and written; earlier checkpoints are still complete"


def file_name(format: Format, number: int = 0, count: int = 1) -> str:
    """The name of a process's file of arrays in a checkpoint's directory."""
    return f"arrays{f'-{number:05d}-of-{count:05d}' if count > 1 else ''}{format.suffix}"


def array_name(path: str, index: Index, count: int = 1) -> str:
    """The name of an array in its file, where so many processes have written.

    >>> array_name("dense/kernel", ((0, 2), (4, 8)), 4)
    'dense/kernel[0:2,4:8]'
    """
    return stored_name(path) + (f"[{index_text(index)}]" if count > 1 else "")
