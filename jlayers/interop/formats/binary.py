"""What readers of binary formats share: a file's bytes, checked at each access, and its arrays."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...base.errors import InteropError


class BinaryFile:
    """The bytes of a file, read when they are used.

    Attributes:
      path, size: of the file.
      data: its bytes, whose length is ``size``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.size = file.seek(0, 2)
            # There is no map of nothing.
            self.data: mmap.mmap | bytes = (
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""
            )

    def error(self, place: str, problem: str, **facts: str) -> InteropError:
        return InteropError(f"{self.path}: {place} {problem}", **facts)

    def check(self, place: str, start: int, stop: int) -> None:
        """That the bytes are in the file."""
        if not 0 <= start <= stop <= self.size:
            raise self.error(
                place,
                "must be in the file",
                expected=f"at most {self.size} bytes",
                got=f"bytes {start} to {stop}",
            )

    def unpack(self, place: str, code: str, start: int) -> tuple[Any, ...]:
        """The numbers from ``start`` on, by ``struct``."""
        self.check(place, start, start + struct.calcsize(code))
        return struct.unpack_from(code, self.data, start)

    def text(self, place: str, start: int, stop: int) -> str:
        self.check(place, start, stop)
        try:
            return self.data[start:stop].decode()
        except UnicodeDecodeError as error:
            raise self.error(place, "must be UTF-8", got=str(error)) from None

    def bytes(self, place: str, start: int, stop: int) -> np.ndarray:
        """A view of them; the map lives as long as it does."""
        self.check(place, start, stop)
        return np.frombuffer(self.data, np.uint8, stop - start, start)


class LazyArrays(Mapping[str, np.ndarray]):
    """Arrays by name; those that are functions are called at each use, so that none is kept."""

    def __init__(self, entries: Mapping[str, np.ndarray | Callable[[], np.ndarray]]) -> None:
        self._entries = entries

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        return entry if isinstance(entry, np.ndarray) else entry()

    def __contains__(self, name: object) -> bool:
        # Mapping's own would make the array.
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def element_count(file: BinaryFile, place: str, shape: Sequence[int]) -> int:
    """How many elements a shape has that was read from a file."""
    # NumPy's bounds: of axes, and of each of them in an array without elements.
    if len(shape) > 64 or any(not 0 <= size < 2**40 for size in shape):
        raise file.error(
            place,
            "must have a shape that an array can have",
            expected="at most 64 axes of fewer than 2**40",
            got=f"{len(shape)} axes" if len(shape) > 64 else str(tuple(shape)),
        )
    count = math.prod(shape)
    if not count and math.prod(size for size in shape if size) >= 2**58:
        raise file.error(place, "must have a shape that an array can have", got=str(tuple(shape)))
    return count


def check_bytes(
    file: BinaryFile, place: str, shape: Sequence[int], dtype: object, expected: int, got: int
) -> None:
    """That a tensor has the bytes which its shape and dtype need."""
    if expected != got:
        raise file.error(
            place,
            "must have as many bytes as its shape needs",
            expected=f"{expected} for {dtype} of shape {tuple(shape)}",
            got=str(got),
        )


def from_bytes(data: np.ndarray, dtype: np.dtype[Any], shape: Sequence[int]) -> np.ndarray:
    """The elements in some bytes, without a copy but for bool."""
    if dtype.kind == "b":
        # NumPy takes a byte other than 0 and 1 for either.
        data = (data != 0).view(np.uint8)
    return data.view(dtype).reshape(shape)


def unpack_bits(
    data: np.ndarray, dtype: np.dtype[Any], bits: int, shape: Sequence[int]
) -> np.ndarray:
    """Elements of 2, 4 or 6 bits, the lowest bits first."""
    count = math.prod(shape)
    if bits == 6:
        padded = np.zeros((-(-data.size // 3), 3), np.uint32)
        padded.reshape(-1)[: data.size] = data
        groups = padded[:, 0] | padded[:, 1] << 8 | padded[:, 2] << 16
        codes = (groups[:, None] >> np.arange(0, 24, 6, dtype=np.uint32)) & 63
    else:
        codes = (data[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)) & ((1 << bits) - 1)
    return codes.astype(np.uint8, copy=False).reshape(-1)[:count].reshape(shape).view(dtype)
