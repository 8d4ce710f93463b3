"""NumPy's files: ``.npy`` with one array, ``.npz`` with several, as Haiku's users save them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from ...base.errors import InteropError
from .base import Arrays, Format, register


def _read_npy(path: Path) -> Arrays:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InteropError(f"{path} must be an array of NumPy", got=str(error)) from None
    return {"": array}


def _read_npz(path: Path) -> Arrays:
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as entries:
            for name in entries.files:
                arrays[name] = entries[name]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        place = f"{path}" if not arrays else f"{path}, after {next(reversed(arrays))!r},"
        raise InteropError(f"{place} cannot be read", got=str(error)) from None
    return arrays


def _is_npz(path: Path, start: bytes) -> bool:
    return start.startswith(b"PK\x03\x04") and path.suffix == ".npz"


register(Format("npy", lambda path, start: start.startswith(b"\x93NUMPY"), _read_npy))
register(Format("npz", _is_npz, _read_npz))
