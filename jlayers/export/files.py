"""Paths of files that models are written to and read from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..base.errors import CheckpointError
from ..base.specs import format_short
from ..checkpoint.atomic import atomic_file


def file_path(path: object) -> Path:
    """What a user passed for a path, also the bytes of one.

    Raises:
      CheckpointError: for anything else.
    """
    if isinstance(path, str | bytes | os.PathLike):
        return Path(os.fsdecode(path))
    raise CheckpointError(
        "path must be that of a file",
        expected="a string or a pathlib.Path",
        got=format_short(path),
    )


@contextlib.contextmanager
def new_file(path: Path, other: type[Exception] = OSError) -> Iterator[Path]:
    """A path to write to, which is renamed to ``path`` at the end.

    Args:
      other: what else is raised where nothing can be written.

    Raises:
      CheckpointError: where the system does not let it be written.
    """
    try:
        with atomic_file(path) as temporary:
            yield temporary
    except (OSError, other) as error:
        raise CheckpointError(
            f"the model could not be written to {path}",
            got="a folder" if path.is_dir() else str(error),
            hint="a folder that exists, with space; a file that was there before is unchanged",
        ) from error
