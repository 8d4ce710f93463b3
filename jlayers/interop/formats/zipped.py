"""Zip archives over a mapped file: stored entries are slices of it."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

from ...base.errors import InteropError

# Of an archive's size, how much its entries may hold: no file of weights is compressed like zeros.
_RATIO = 100


class Archive:
    """The entries of a zip file by name.

    Raises:
      InteropError: here for a damaged directory, and by ``read`` for a damaged entry.
    """

    def __init__(self, path: Path, data: memoryview):
        self._path, self._data = path, data
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        # What zipfile raises for damaged directories, beside its own.
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            ValueError,
            LookupError,
            struct.error,
            OverflowError,
            OSError,
            EOFError,
        ) as error:
            raise InteropError(f"{path} is a damaged zip archive", got=str(error)[:200]) from None
        self._entries = {entry.filename: entry for entry in entries}
        if len(self._entries) != len(entries):
            raise InteropError(f"{path} has two entries of one name")
        compressed = sum(e.file_size for e in entries if e.compress_type != zipfile.ZIP_STORED)
        if compressed > _RATIO * len(data):
            raise InteropError(
                f"{path} claims to hold more than {_RATIO} times its size",
                got=f"{compressed:,} bytes in {len(data):,}",
            )

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def size(self, name: str) -> int:
        return self._entries[name].file_size

    def read(self, name: str) -> memoryview:
        """The bytes of an entry: of the file, or decompressed."""
        entry, where = self._entries[name], f"{self._path}: {name!r}"
        start = entry.header_offset
        header = bytes(self._data[start : start + 30]) if start >= 0 else b""
        # A second header is before each entry, with lengths of its own.
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise InteropError(f"{where} is damaged", expected="a header before the entry")
        start += 30 + int.from_bytes(header[26:28], "little")
        start += int.from_bytes(header[28:30], "little")
        if entry.flag_bits & 1:
            raise InteropError(f"{where} is encrypted")
        stored = self._data[start : start + entry.compress_size]
        if len(stored) != entry.compress_size:
            raise InteropError(
                f"{where} is truncated",
                expected=f"{entry.compress_size:,} bytes",
                got=f"{len(stored):,}",
            )
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            stored = self._inflate(stored, entry.file_size, where)
        elif entry.compress_type != zipfile.ZIP_STORED:
            raise InteropError(
                f"{where} is compressed in an unknown way",
                expected="stored or deflated",
                got=f"method {entry.compress_type}",
            )
        if len(stored) != entry.file_size:
            raise InteropError(
                f"{where} is damaged", expected=f"{entry.file_size:,} bytes", got=f"{len(stored):,}"
            )
        return stored

    def checked(self, name: str) -> memoryview:
        """The bytes of an entry, after a look at their checksum."""
        data, expected = self.read(name), self._entries[name].CRC
        if (got := zlib.crc32(data)) != expected:
            raise InteropError(
                f"{self._path}: {name!r} is damaged",
                expected=f"checksum {expected:08x}",
                got=f"{got:08x}",
            )
        return data

    @staticmethod
    def _inflate(stored: memoryview, size: int, where: str) -> memoryview:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # One byte more, to see whether there is more than was promised.
            return memoryview(inflate.decompress(stored, size + 1))
        except zlib.error as error:
            raise InteropError(f"{where} is damaged", got=str(error)) from None
