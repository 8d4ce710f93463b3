"""Plain pickles of arrays, as Haiku's users save parameters."""

from __future__ import annotations

from pathlib import Path

from ..pickles import Finder, load, named_arrays
from .base import Arrays, Format, register
from .mapped import map_file
from .torch import MAGIC, storage_from_bytes

_SUFFIXES = (".pkl", ".pickle")


def _recognise(path: Path, start: bytes) -> bool:
    # Protocols 0 and 1 have no first bytes of their own.
    written = start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5")
    return (written or path.suffix in _SUFFIXES) and not start.startswith(MAGIC)


def _read(path: Path) -> Arrays:
    data = map_file(path)
    tensors = []

    def storage(raw: object) -> object:
        tensors.append(raw)
        return storage_from_bytes(raw)

    find = Finder({"torch.storage._load_from_bytes": storage})
    root, size = load(data, str(path), find)
    # Torch joins names by dots; Haiku by slashes, and has some in its modules' names.
    return named_arrays(root, str(path), "." if tensors else "/", 8 * size + 100_000)


register(Format("pickle", _recognise, _read))
