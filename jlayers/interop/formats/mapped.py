"""Files in memory, without reading them."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from ...base.errors import InteropError


def map_file(path: Path) -> memoryview:
    """The bytes of a file; those that are used are read. Arrays over them keep the map open.

    Raises:
      InteropError: for an empty file, and for a folder.
    """
    if path.is_dir():
        raise InteropError(f"{path} is a folder", expected="a file")
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise InteropError(f"{path} is empty")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def map_bytes(path: Path) -> np.ndarray:
    """The same as an array of uint8."""
    return np.frombuffer(map_file(path), np.uint8)
