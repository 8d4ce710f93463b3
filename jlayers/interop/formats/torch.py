"""PyTorch's files: zip archives (since 1.6), pickles with storages behind them, and TorchScript.

None of it needs torch. ``torch.save`` writes a pickle whose tensors refer to storages by a key:
in a zip archive each storage is an entry, stored as it is in memory, which is mapped; before 1.6
the storages follow the pickle one after the other, which is mapped too. ``torch.jit.save`` writes
an archive of the first kind whose pickle has modules; their code is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...base.errors import InteropError
from ..pickles import Finder, Storage, load, named_arrays
from ..pickles.allowed import DTYPES, StorageType
from ..pickles.records import Record, Tensor, check_sizes, shown
from .base import Arrays, Format, Writer, register
from .mapped import map_file
from .torch_writing import write_zip
from .zipped import Archive

# The pickled number that a file of torch < 1.6 begins with.
MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".jit", ".ts", ".torchscript")


def _recognise(path: Path, start: bytes) -> bool:
    if start.startswith(MAGIC):
        return True
    if not start.startswith(b"PK\x03\x04"):
        return False
    # The first entry is in a folder with the name of the archive; a damaged one is told by suffix.
    length = int.from_bytes(start[26:28], "little")
    _, _, name = start[30 : 30 + length].partition(b"/")
    return path.suffix in _SUFFIXES or name.startswith((b"data.pkl", b"data/", b"version"))


def _read(path: Path) -> Arrays:
    data = map_file(path)
    start = bytes(data[: len(MAGIC)])
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(path, data)
    if start == MAGIC:
        root, size = _read_legacy(data, str(path), nested=True)
        return named_arrays(root, str(path), ".", 8 * size + 100_000)
    raise InteropError(
        f"{path} is not a file of PyTorch",
        expected="a zip archive, or the magic number of torch < 1.6",
        got=repr(start),
    )


def _read_zip(path: Path, data: memoryview) -> Arrays:
    archive = Archive(path, data)
    pickles = [name for name in archive.names if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise InteropError(
            f"{path} is not a file of PyTorch", expected="an entry 'archive/data.pkl'"
        )
    where = f"{path}: {pickles[0]!r}"
    folder = pickles[0].removesuffix("data.pkl")
    order = bytes(archive.read(f"{folder}byteorder")) if f"{folder}byteorder" in archive else b""
    if order not in (b"", b"little", b"big"):
        raise InteropError(f"{path}: 'byteorder' is damaged", expected="little or big")
    memories: dict[str, memoryview] = {}

    def storage(kind: np.dtype | None, key: str, count: int, view: object) -> Storage:
        found = Storage(kind, count)
        name = f"{folder}data/{key}"
        if name not in archive:
            raise InteropError(f"the archive has no entry {name!r}")
        if found.itemsize * count > archive.size(name):
            raise InteropError(
                f"the storage {name!r} is damaged",
                expected=f"{found.itemsize * count:,} bytes",
                got=f"{archive.size(name):,}",
            )
        if key not in memories:
            memories[key] = archive.read(name)
        found.data, found.swapped = memories[key], order == b"big"
        return found

    program = archive.read(pickles[0])
    root, _ = load(program, where, Finder(), _persistent(storage))
    if f"{folder}constants.pkl" in archive:
        _leave_out_aliases(root)
    return named_arrays(root, str(path), ".", 8 * len(program) + 100_000)


def _leave_out_aliases(root: object) -> None:
    """Takes lists of a module's own parameters out of TorchScript's modules.

    An LSTM has its weights a second time, in ``_flat_weights``; its state dict has them once.
    """
    modules: list[object] = [root]
    seen: set[int] = set()
    while modules:
        module = modules.pop()
        if type(module) is not Record or id(module) in seen:
            continue
        seen.add(id(module))
        modules += module.entries.values()
        own = {value.key() for value in module.entries.values() if type(value) is Tensor}
        for name, value in list(module.entries.items()):
            if type(value) is list and all(type(v) is Tensor and v.key() in own for v in value):
                del module.entries[name]


def _read_legacy(data: memoryview, where: str, nested: bool) -> tuple[object, int]:
    """The object, and the number of bytes before the storages."""
    at = len(MAGIC)
    header = []
    for name in ("protocol", "system"):
        value, read = load(data[at:], f"{where}: the {name}", Finder())
        header.append(value)
        at += read
    if header[0] != 1001:
        raise InteropError(
            f"{where} has an unknown protocol", expected="1001", got=shown(header[0])
        )
    storages: dict[str, Storage] = {}

    def storage(kind: np.dtype | None, key: str, count: int, view: object) -> Storage:
        root = storages.setdefault(key, Storage(kind, count))
        if view is None:
            return root if root.dtype == kind else Storage(kind, count, root)
        if type(view) is not tuple or len(view) != 3:
            raise InteropError("a view of a storage is damaged")
        offset, size = check_sizes(view[1:])
        return Storage(kind, size, root, offset)

    more = {"torch.storage._load_from_bytes": storage_from_bytes} if nested else {}
    root, read = load(data[at:], where, Finder(more), _persistent(storage))
    at += read
    keys, read = load(data[at:], f"{where}: the list of storages", Finder())
    at += read
    program = at
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise InteropError(f"{where}: the list of storages is damaged")
    for i, key in enumerate(keys):
        place = f"{where}: storage {i}"
        if key not in storages:
            raise InteropError(f"{place} belongs to no tensor")
        if len(data) - at < 8:
            raise InteropError(f"{place} is missing: the file is truncated")
        count = int.from_bytes(data[at : at + 8], "little", signed=True)
        size = count * storages[key].itemsize
        at += 8
        if count < storages[key].count or size > len(data) - at:
            raise InteropError(
                f"{place} is truncated or damaged",
                expected=f"{storages[key].count:,} elements in {len(data) - at:,} bytes",
                got=f"{count:,} elements",
            )
        storages[key].data = data[at : at + size]
        at += size
    return root, program


def storage_from_bytes(raw: object) -> object:
    """A storage in a plain pickle of tensors: a file of the form before 1.6, as a byte string."""
    data = memoryview(raw) if isinstance(raw, bytes | memoryview) else memoryview(b"")
    if data[: len(MAGIC)] != MAGIC:
        raise InteropError("a storage is damaged", expected="the bytes of a saved storage")
    return _read_legacy(data, "a storage", nested=False)[0]


def _persistent(
    storage: Callable[[np.dtype | None, str, int, object], Storage],
) -> Callable[[object], object]:
    def resolve(saved: object) -> object:
        if type(saved) is not tuple or len(saved) not in (5, 6) or saved[0] != "storage":
            got = "a module" if isinstance(saved, tuple) and saved[:1] == ("module",) else None
            raise InteropError("refers to something that is not a storage", got=got)
        _, kind, key, _, count, *view = saved
        if type(kind) is not StorageType or type(key) is not str:
            raise InteropError("a storage is damaged", got=shown(key))
        (count,) = check_sizes((count,))
        return storage(kind.dtype, key, count, view[0] if view else None)

    return resolve


register(
    Format(
        "torch",
        _recognise,
        _read,
        writer=Writer(write_zip, (".pt", ".pth", ".bin", ".ckpt"), tuple(DTYPES.values())),
    )
)
