"""``read``: the arrays of a file, whatever library wrote it."""

from __future__ import annotations

import os
from pathlib import Path

from ..base.errors import InteropError, public_api
from .formats import FORMATS
from .formats.base import Arrays, Format, OfLibrary


@public_api
def read(path: str | os.PathLike[str], *, format: str | None = None) -> Arrays:
    """The arrays in a file of weights, by their names in that file.

    Nothing in the file is run, whatever it says. Arrays are mapped from the file where the format
    stores them as they are in memory, and read when they are used.

    Args:
      path: of a file, or of a folder that is a checkpoint.
      format: a name in ``interop.FORMATS``; None to recognise it by the file's first bytes.

    Returns:
      A mapping from names to NumPy arrays, in the order of the file.

    Raises:
      InteropError: for a file that is damaged, of no known format, or holds anything but arrays;
        it names the file and the entry.
      FileNotFoundError: where there is none.
    """
    known = format_of(Path(path), format)
    arrays = known.read(Path(path))
    return OfLibrary(arrays, known.library) if known.library else arrays


def format_of(path: Path, format: str | None) -> Format:
    """The format of that name; None to recognise a file by its first bytes.

    Raises:
      InteropError: if there is none.
      FileNotFoundError: where there is no file.
    """
    if format is not None and format not in FORMATS:
        raise InteropError(f"no format {format!r}", expected=", ".join(FORMATS))
    start = b""
    if not path.is_dir():
        with path.open("rb") as file:
            start = file.read(64)
    # The length at the front of a safetensors file may be the first bytes of any other format.
    known = sorted(FORMATS.values(), key=lambda each: each.name != "safetensors")
    if format is not None:
        known = [FORMATS[format]]
    for each in known:
        if format is not None or each.recognise(path, start):
            return each
    raise InteropError(
        f"{path} is of no format that is known by its first bytes",
        got=repr(start[:16]),
        expected=", ".join(FORMATS),
        hint="interop.read(path, format=...)",
    )
