"""NumPy's files: ``.npy`` with one array, ``.npz`` with several, as Haiku's users save them."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import numpy as np

from ...base.errors import InteropError
from .base import NUMPY_DTYPES, Arrays, Format, Writer, register
from .hdf5 import damage
from .mapped import map_file
from .zipped import Archive

# numpy.load reads no longer header either, but for files that may hold pickles.
_HEADER = 1 << 16
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _read_npy(path: Path) -> Arrays:
    return {"": _array(str(path), map_file(path))}


def _read_npz(path: Path) -> Arrays:
    archive = Archive(path, map_file(path))
    arrays: dict[str, np.ndarray] = {}
    for entry in archive.names:
        name = entry.removesuffix(".npy")
        if name in arrays:
            raise InteropError(f"{path} has two arrays of one name", got=repr(name))
        arrays[name] = _array(f"{path}: {entry!r}", archive.checked(entry))
    return arrays


def _array(where: str, data: memoryview) -> np.ndarray:
    """The array in the bytes of a ``.npy`` file, over them."""
    start = io.BytesIO(bytes(data[:_HEADER]))
    # The header is a literal of Python, of which its parser may raise anything.
    with damage(where):
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(start)](start)
        if dtype.hasobject:
            raise InteropError(
                f"{where} has objects, which are pickles", expected="an array of numbers"
            )
        count = math.prod(shape)
        flat = np.frombuffer(data, dtype, offset=start.tell())
    if len(flat) != count:
        raise InteropError(
            f"{where} is damaged", expected=f"{count:,} numbers of {dtype}", got=f"{len(flat):,}"
        )
    return flat.reshape(shape, order="F" if fortran else "C")


def _write_npy(path: Path, arrays: Arrays) -> None:
    if len(arrays) != 1:
        raise InteropError("a .npy file has one array", got=str(len(arrays)), hint="a .npz file")
    (array,) = arrays.values()
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _write_npz(path: Path, arrays: Arrays) -> None:
    # np.savez takes names as keywords, of which it has some of its own.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _is_npz(path: Path, start: bytes) -> bool:
    return start.startswith(b"PK\x03\x04") and path.suffix == ".npz"


register(
    Format(
        "npy",
        lambda path, start: start.startswith(b"\x93NUMPY"),
        _read_npy,
        writer=Writer(_write_npy, (".npy",), NUMPY_DTYPES),
    )
)
register(Format("npz", _is_npz, _read_npz, writer=Writer(_write_npz, (".npz",), NUMPY_DTYPES)))
