"""Safetensors files: written from buffers without a copy, read without trust.

The format is 8 bytes with the header's length (little-endian), the header, which is JSON, and the
bytes of the arrays one after the other: https://huggingface.co/docs/safetensors. jlayers writes it
by itself: the safetensors package writes each file through a mapping, at a quarter of the speed of
plain writes, and has no checksums. It reads what is written here.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from ..tree import Entry, in_file_order

# What was written is in the processor's cache still when its checksum is computed. Longer writes
# have some kernels look for large pages, which take several times as long to find as to fill.
_CHUNK = 1 << 17
_ALIGNMENT = 64
# Bytes that are written before the disk is asked to take them.
_FLUSH = 1 << 28


class DamagedFileError(Exception):
    """The file is not what it was when it was written."""


def header(leaves: dict[str, Entry]) -> bytes:
    """All that comes before the first array: a function of what the file holds.

    >>> header({"bias": Entry("array", "float32", (3,))})[8:]
    b'{"bias":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}              '
    """
    table, start = {}, 0
    for path in in_file_order(leaves):
        code, shape = leaves[path].stored
        end = start + leaves[path].nbytes
        table[path] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def write(path: Path, leaves: dict[str, Entry], data: dict[str, np.ndarray]) -> dict[str, int]:
    """Writes a file down to the disk.

    Args:
      path: of the file, which is not there yet.
      leaves: what it holds.
      data: the bytes, uint8 arrays of one axis.

    Returns:
      The CRC-32 of each array's bytes.

    Raises:
      OSError: where the system cannot.
    """
    sums, written = {}, 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    flusher = _Flusher(descriptor)
    try:
        _write_all(descriptor, memoryview(header(leaves)))
        for name in in_file_order(leaves):
            view, total = data[name].data, 0
            for start in range(0, len(view), _CHUNK):
                chunk = view[start : start + _CHUNK]
                _write_all(descriptor, chunk)
                total = zlib.crc32(chunk, total)
                written += len(chunk)
                if written >= _FLUSH and flusher.begin():
                    written = 0
            sums[name] = total
        flusher.finish()
        os.fsync(descriptor)
    finally:
        flusher.wait()
        os.close(descriptor)
    return sums


class _Flusher:
    """Has the disk take what was written, on a thread, while more is copied and summed."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def begin(self) -> bool:
        """Begins, unless it is at it already."""
        if self._thread is not None and self._thread.is_alive():
            return False
        thread = threading.Thread(target=self._flush, name="checkpoint-flush", daemon=True)
        # Python that is ending makes no threads; all is flushed at the end of the file anyway.
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread
        return True

    def _flush(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self._error = error

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def finish(self) -> None:
        """Raises what the disk said, which it says once."""
        self.wait()
        if self._error is not None:
            raise self._error


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]


def read(
    path: Path, leaves: dict[str, Entry], sums: dict[str, int], wanted: Collection[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """The bytes of the wanted arrays, one after the other, in the order of the file.

    The header must be the one that ``leaves`` give, to the byte, so there is nothing in it to
    parse; and no memory is asked for before the file's size is known to fit.

    Raises:
      DamagedFileError: where the file is not the one that was written.
      OSError: where the system cannot read it.
    """
    head = header(leaves)
    size = len(head) + sum(entry.nbytes for entry in leaves.values())
    descriptor = open_regular(path)
    with open(descriptor, "rb", buffering=0) as file:
        if (found := os.fstat(descriptor).st_size) != size:
            kind = "is truncated" if found < size else "is too long"
            raise DamagedFileError(f"{path.name} {kind}: {found} bytes, {size} were written")
        if file.read(len(head)) != head:
            raise DamagedFileError(f"the header of {path.name} does not fit the manifest")
        start = len(head)
        for name in in_file_order(leaves):
            if name in wanted:
                file.seek(start)
                data = np.empty(leaves[name].nbytes, np.uint8)
                if _fill(file.readinto, data.data) != sums[name]:
                    raise DamagedFileError(f"the checksum of {name!r} in {path.name} is wrong")
                if leaves[name].dtype == "bool" and data.size and data.max() > 1:
                    raise DamagedFileError(f"{name!r} in {path.name} holds bools beyond 1")
                yield name, data
            start += leaves[name].nbytes


def _fill(readinto, view: memoryview) -> int:  # type: ignore[no-untyped-def]
    """Fills ``view`` from a file and gives the CRC-32 of what came; a short one is wrong."""
    total = 0
    while view:
        n = readinto(view[:_CHUNK])
        if not n:
            return -1
        total = zlib.crc32(view[:n], total)
        view = view[n:]
    return total


def open_regular(path: Path) -> int:
    """A descriptor for a file; a pipe in its place does not keep the reader waiting.

    Raises:
      DamagedFileError: where there is something else than a file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedFileError(f"{path.name} is no file")
    return descriptor
