"""What a reader of a format is, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Arrays by the names that they have in the file; groups, scopes and dicts are joined by "/" or by
# ".", as the format's own library prints them.
Arrays = Mapping[str, np.ndarray]


class Format(NamedTuple):
    """A file format that ``interop.read`` knows.

    Attributes:
      name: for ``read(format=)``.
      recognise: whether a file (its path and first 64 bytes; a folder has none) is of this format.
      read: the arrays of a path that was recognised.
      extra: the extra of jlayers that brings the package it needs, or None.
    """

    name: str
    recognise: Callable[[Path, bytes], bool]
    read: Callable[[Path], Arrays]
    extra: str | None = None


FORMATS: dict[str, Format] = {}


def register(format: Format) -> None:
    """Adds a format; those registered earlier are asked first."""
    FORMATS[format.name] = format
