"""GGUF, the files of llama.cpp: tensors, quantised ones as the floats they are.

The tables at the start are read here, since the package ``gguf`` believes the counts in them;
blocks of quantised numbers are left to it. See docs/gguf.md of github.com/ggml-org/ggml.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ...base.errors import InteropError
from .base import Arrays, Format, register
from .binary import BinaryFile, LazyArrays, element_count

_VERSIONS = (2, 3)
# By ggml_type; a number that is not here is one of the quantised types.
_TYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("f4"),
    1: np.dtype("f2"),
    24: np.dtype("i1"),
    25: np.dtype("i2"),
    26: np.dtype("i4"),
    27: np.dtype("i8"),
    28: np.dtype("f8"),
    30: np.dtype(ml_dtypes.bfloat16),
}
# By gguf_metadata_value_type: how many bytes.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_NESTED = 8
_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


class _Entry(NamedTuple):
    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


class _Header:
    """Reads the tables at the start, from one number to the next."""

    def __init__(self, file: BinaryFile) -> None:
        self.file, self.place, self.at = file, "the header", 4
        self.order, self.alignment = "<", 32
        (version,) = file.unpack(self.place, "<I", 4)
        if version & 0xFFFF == 0:
            self.order = ">"
        (version,) = self.numbers("I")
        if version not in _VERSIONS:
            raise file.error("the version", f"must be of {_VERSIONS}", got=str(version))
        self.tensors, self.values = self.numbers("QQ")

    def numbers(self, code: str) -> tuple[Any, ...]:
        found = self.file.unpack(self.place, self.order + code, self.at)
        # Without padding: the order of bytes is given.
        self.at += sum(8 if letter == "Q" else 4 for letter in code)
        return found

    def text(self) -> str:
        (size,) = self.numbers("Q")
        start, self.at = self.at, self.at + size
        return self.file.text(self.place, start, self.at)

    def skip_value(self, kind: int, depth: int = 0) -> None:
        """Steps over a value of the metadata."""
        if kind in _SIZES:
            self._skip(_SIZES[kind])
        elif kind == _STRING:
            self._skip(self.numbers("Q")[0])
        elif kind == _ARRAY and depth < _NESTED:
            inner, count = (*self.numbers("I"), *self.numbers("Q"))
            if inner in _SIZES:
                self._skip(_SIZES[inner] * count)
                return
            # The end of the file ends this, since each has a size of its own.
            for _ in range(count):
                self.skip_value(inner, depth + 1)
        else:
            raise self.file.error(self.place, "must be a value of a known type", got=f"type {kind}")

    def _skip(self, size: int) -> None:
        self.file.check(self.place, self.at, self.at + size)
        self.at += size

    def metadata(self) -> None:
        """Of which the alignment of the tensors matters alone."""
        for number in range(self.values):
            self.place = f"value {number} of the metadata"
            key = self.text()
            self.place += f", {key!r},"
            (kind,) = self.numbers("I")
            if key == "general.alignment" and kind == _UINT32:
                (self.alignment,) = self.numbers("I")
                if self.alignment.bit_count() != 1:
                    raise self.file.error(
                        self.place, "must be a power of two", got=str(self.alignment)
                    )
            else:
                self.skip_value(kind)

    def entry(self, number: int) -> _Entry:
        self.place = f"tensor {number}"
        name = self.text()
        self.place += f" {name!r}"
        (axes,) = self.numbers("I")
        if axes > 8:
            raise self.file.error(self.place, "must have at most 8 axes", got=str(axes))
        # ggml counts axes from the one that is contiguous.
        shape = self.numbers("Q" * axes)[::-1]
        kind, offset = (*self.numbers("I"), *self.numbers("Q"))
        return _Entry(name, shape, kind, offset)


def _read(path: Path) -> Arrays:
    arrays: dict[str, np.ndarray | Callable[[], np.ndarray]] = {}
    for part in _parts(path):
        _read_part(BinaryFile(part), arrays)
    return LazyArrays(arrays)


def _parts(path: Path) -> list[Path]:
    """All files of a model that was split, of whichever one is given."""
    found = _SPLIT.fullmatch(path.name)
    if not found:
        return [path]
    count = int(found[3])
    # Each of them is a file in this folder: their number is bounded before any is listed.
    present = len(list(path.parent.glob(f"*-of-{found[3]}.gguf")))
    names = [f"{found[1]}-{i + 1:05}-of-{found[3]}.gguf" for i in range(min(count, present + 1))]
    for name in names:
        if not (path.parent / name).is_file():
            raise InteropError(
                f"{path} is one of {count} files, which must all be in its folder",
                got=f"no {name}",
            )
    return [path.parent / name for name in names]


def _read_part(file: BinaryFile, arrays: dict[str, np.ndarray | Callable[[], np.ndarray]]) -> None:
    if (magic := b"".join(file.unpack("the header", "4s", 0))) != b"GGUF":
        raise file.error("the header", "must begin with b'GGUF'", got=repr(magic))
    header = _Header(file)
    header.metadata()
    entries = [header.entry(number) for number in range(header.tensors)]
    data = -(-header.at // header.alignment) * header.alignment
    used = 0
    for entry in entries:
        place = f"tensor {entry.name!r}"
        if entry.name in arrays:
            raise file.error(place, "must have a name of its own")
        array, size = _tensor(file, place, entry, data, header.order)
        # Tensors do not share bytes, or a small file would become large arrays.
        used += size
        file.check("the tensors together", data, data + used)
        arrays[entry.name] = array


def _tensor(
    file: BinaryFile, place: str, entry: _Entry, data: int, order: str
) -> tuple[np.ndarray | Callable[[], np.ndarray], int]:
    count = element_count(file, place, entry.shape)
    start = data + entry.offset
    if entry.kind not in _TYPES:
        return _quantised(file, place, entry, start, order)
    dtype = _TYPES[entry.kind]
    size = count * dtype.itemsize
    raw = file.bytes(place, start, start + size)
    if order == "<" or dtype.itemsize == 1:
        return raw.view(dtype).reshape(entry.shape), size
    stored = np.dtype(f">u{dtype.itemsize}")
    native = stored.newbyteorder("=")
    return lambda: raw.view(stored).astype(native).view(dtype).reshape(entry.shape), size


def _quantised(
    file: BinaryFile, place: str, entry: _Entry, start: int, order: str
) -> tuple[Callable[[], np.ndarray], int]:
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
    except ImportError:
        raise file.error(
            place,
            "is quantised, which needs the package gguf",
            hint="pip install 'jlayers[interop]'",
        ) from None
    try:
        kind = GGMLQuantizationType(entry.kind)
        elements, size_of_block = GGML_QUANT_SIZES[kind]
        # Of some types it knows the name alone.
        dequantize(np.zeros((1, size_of_block), np.uint8), kind)
    except (ValueError, LookupError, NotImplementedError):
        raise file.error(
            place,
            "must be of a type that the package gguf knows",
            got=f"type {entry.kind}",
        ) from None
    if order != "<":
        raise file.error(place, "must be little-endian where it is quantised", got=kind.name)
    if not entry.shape or entry.shape[-1] % elements:
        raise file.error(
            place,
            f"must have rows of blocks of {elements} numbers",
            got=f"{kind.name} of shape {entry.shape}",
        )
    rows = math.prod(entry.shape[:-1])
    row = entry.shape[-1] // elements * size_of_block
    raw = file.bytes(place, start, start + rows * row)

    def dequantised() -> np.ndarray:
        if not raw.size:
            return np.zeros(entry.shape, np.float32)
        # Scales that a damaged file makes infinite are what they are.
        with np.errstate(all="ignore"):
            floats: np.ndarray = dequantize(raw.reshape(rows, row), kind)
        return floats.reshape(entry.shape)

    return dequantised, raw.size


register(Format("gguf", lambda path, start: start.startswith(b"GGUF"), _read, "interop"))
