"""PyTorch's zip archives, written without torch: a state dict as ``torch.save`` stores it.

The pickle has an ``OrderedDict`` of calls of ``torch._utils._rebuild_tensor_v2``, whose storages
are entries of the archive. Arrays that are the same memory share a storage, as tied tensors do.
"""

from __future__ import annotations

import math
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np

from ..pickles.allowed import DTYPES, STORAGES
from .base import Arrays

_FOLDER = "archive"
# So that torch can map storages: what it pads entries with, in a field of its own.
_ALIGNMENT, _PADDING = 64, 0x4246
_KINDS = {DTYPES[dtype]: f"{kind}Storage" for kind, dtype in STORAGES.items()}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ZIP64 = 1 << 31


def write_zip(path: Path, arrays: Arrays) -> None:
    """Writes an archive that ``torch.load(path, weights_only=True)`` reads."""
    storages: dict[tuple[object, ...], str] = {}
    contents: list[np.ndarray] = []
    keys = {}
    for name, array in arrays.items():
        start = array.__array_interface__["data"][0]
        memory = (start, array.nbytes, array.dtype) if array.size else (name,)
        if memory not in storages:
            storages[memory] = str(len(contents))
            contents.append(array)
        keys[name] = storages[memory]
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_entry("data.pkl"), _state_dict(arrays, keys))
        archive.writestr(_entry("byteorder"), sys.byteorder)
        for key, array in enumerate(contents):
            info = _entry(f"data/{key}")
            large = array.nbytes >= _ZIP64
            # The header: 30 bytes, the name, 20 more for a large entry, and this field.
            start = file.tell() + 30 + len(info.filename) + 20 * large + 4
            padding = -start % _ALIGNMENT
            info.extra = struct.pack("<HH", _PADDING, padding) + bytes(padding)
            with archive.open(info, "w", force_zip64=large) as entry:
                entry.write(array.reshape(-1).view(np.uint8).data)
        archive.writestr(_entry("version"), "3\n")


def _entry(name: str) -> zipfile.ZipInfo:
    # Without a time of its own, so that the same arrays give the same file.
    return zipfile.ZipInfo(f"{_FOLDER}/{name}")


def _state_dict(arrays: Arrays, keys: dict[str, str]) -> bytes:
    parts = [pickle.PROTO, b"\x02", _ordered_dict(), pickle.MARK]
    for name, array in arrays.items():
        parts += [_text(name), _tensor(array, keys[name])]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])


def _tensor(array: np.ndarray, key: str) -> bytes:
    typed = array.dtype in _KINDS
    kind = f"torch {_KINDS[array.dtype]}" if typed else "torch.storage UntypedStorage"
    count = array.size if typed else array.nbytes
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    storage = [
        *(pickle.MARK, _text("storage"), _global(kind), _text(key), _text("cpu")),
        *(_integer(count), pickle.TUPLE, pickle.BINPERSID),
    ]
    arguments = [
        *storage,
        *(_integer(0), _tuple(array.shape), _tuple(strides)),
        *(pickle.NEWFALSE, _ordered_dict()),  # without a gradient, without hooks
        *([] if typed else [_global(f"torch {_NAMES[array.dtype]}")]),
    ]
    rebuild = _global(f"torch._utils _rebuild_tensor_v{2 if typed else 3}")
    return b"".join([rebuild, pickle.MARK, *arguments, pickle.TUPLE, pickle.REDUCE])


def _ordered_dict() -> bytes:
    return _global("collections OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _global(name: str) -> bytes:
    return pickle.GLOBAL + name.replace(" ", "\n").encode() + b"\n"


def _text(value: str) -> bytes:
    encoded = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _integer(value: int) -> bytes:
    if value < 1 << 31:
        return pickle.BININT + struct.pack("<i", value)
    encoded = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(encoded)]) + encoded


def _tuple(values: tuple[int, ...] | list[int]) -> bytes:
    return b"".join([pickle.MARK, *map(_integer, values), pickle.TUPLE])
