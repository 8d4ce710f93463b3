"""HDF5 files by h5py, read with care: what is refused before HDF5's C code is asked for it."""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ...base.errors import InteropError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MAX_DEPTH = 64
# Text in attributes may be that much, whatever the size of the file.
_TEXT_FLOOR = 1 << 26
# No deflated byte gives more than 1,032 bytes.
_MOST_INFLATION = 1032
# What h5py itself brings: gzip, shuffle, fletcher32, lzf. Others are loaded from the machine.
_FILTERS = {1, 2, 3, 32000}


@contextlib.contextmanager
def damage(place: str) -> Iterator[None]:
    """Turns whatever a package raises of a damaged file into an error that names the place."""
    try:
        yield
    except InteropError:
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise InteropError(f"{place} is damaged", got=got[:500]) from None


class _Bytes(io.RawIOBase):
    """Mapped bytes as a file, so that HDF5 sees those alone and no other file."""

    def __init__(self, content: np.ndarray):
        self._content = content.data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        start = (0, self._at, len(self._content))[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        part = self._content[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


class Group(NamedTuple):
    """A group that was read: its texts and its entries, in natural order of their names."""

    attributes: dict[str, list[str]]
    entries: dict[str, Group | np.ndarray]


def natural(name: str) -> list[tuple[int, str]]:
    """A key that puts ``dense_2`` before ``dense_10``: HDF5 sorts names as text."""
    parts = re.split(r"(\d+)", name)
    # ``int`` refuses some digits of other scripts, and more than 4,300 digits.
    return [
        (int(part), "") if part.isascii() and part.isdigit() and len(part) < 19 else (-1, part)
        for part in parts
    ]


def import_h5py(place: str) -> Any:
    """The package, or an error that says what needs it."""
    try:
        import h5py
    except ImportError:
        raise InteropError(
            f"{place} needs h5py, which is not installed", hint="pip install 'jlayers[interop]'"
        ) from None
    return h5py


def read_hdf5(content: np.ndarray, place: str) -> Group:
    """The whole tree of an HDF5 file; arrays that are stored as they are stay mapped.

    Links to elsewhere, datasets in other files, objects and filters that are not h5py's own are
    refused, as is a dataset that promises more than the file can hold.
    """
    h5py = import_h5py(place)
    longest = _check_heaps(content, place)
    with damage(place), h5py.File(_Bytes(content), "r") as file:
        return _Reader(h5py, content, place, longest).group(file, "", 0)


def _check_heaps(content: np.ndarray, place: str) -> int:
    """Looks into the heaps of texts: one whose sizes do not add up sends HDF5 round for ever.

    Of 3,000 mutated files 2 hung in HDF5 2.0.0, each by such a heap.
    Returns the length of the longest text.
    """
    data = content.tobytes() if content.size < 1 << 16 else content.data
    longest = 0
    heaps: dict[int, int] = {}
    for found in re.finditer(rb"GCOL\x01", data):
        start = found.start()
        size = _number(content, start + 8, 8)
        end = start + size
        if size < 4096 or end > content.size:
            # Chance bytes in an array, or damage that HDF5 notices.
            continue
        heaps[start] = end
        at = start + 16
        while at + 16 <= end:
            index, length = _number(content, at, 2), _number(content, at + 8, 8)
            if index == 0:
                if length != end - at:
                    raise InteropError(
                        f"{place} is damaged",
                        got=f"a heap at byte {start} with {length} bytes free",
                        expected=f"{end - at} bytes",
                    )
                break
            at += 16 + -(-length // 8) * 8
            if at > end:
                raise InteropError(
                    f"{place} is damaged",
                    got=f"a text of {length} bytes in a heap of {size} at byte {start}",
                )
            longest = max(longest, length)
    # HDF5 allocates what a reference to a text promises before it looks the text up.
    for heap in heaps:
        for found in re.finditer(re.escape(heap.to_bytes(8, "little")), data):
            length, index = (_number(content, max(found.start() + at, 0), 4) for at in (-4, 8))
            if any(start <= found.start() < end for start, end in heaps.items()):
                continue
            # The layout of a virtual dataset refers to a heap too, behind the bytes 4 and 3.
            virtual = length >> 16 == 0x0304
            if 0 < index < 1 << 16 and length > content.size and not virtual:
                raise InteropError(
                    f"{place} is damaged",
                    got=f"a text of {length} bytes at byte {found.start() - 4}",
                )
    return longest


def _number(content: np.ndarray, at: int, size: int) -> int:
    return int.from_bytes(content[at : at + size].tobytes(), "little")


class _Reader:
    """One walk over a file that is open."""

    def __init__(self, h5py: Any, content: np.ndarray, place: str, longest: int):
        self.h5py, self.content, self.place, self.longest = h5py, content, place, longest
        self.groups: set[int] = set()
        self.arrays: dict[int, np.ndarray] = {}

    def refuse(self, name: str, what: str, expected: str | None = None) -> InteropError:
        return InteropError(f"{self.place}, entry {name!r}: {what}", expected=expected)

    def group(self, group: Any, name: str, depth: int) -> Group:
        address = self.h5py.h5o.get_info(group.id).addr
        if address in self.groups or depth > _MAX_DEPTH:
            what = "a group that is met twice" if address in self.groups else "groups too deep"
            raise self.refuse(name, what, f"a tree of at most {_MAX_DEPTH} levels")
        self.groups.add(address)
        with damage(f"{self.place}, entry {name!r}"):
            texts = {key: self.text(group, key) for key in sorted(map(str, group.attrs.keys()))}
            attributes = {key: text for key, text in texts.items() if text is not None}
            keys = sorted(map(str, group.keys()), key=natural)
        entries: dict[str, Group | np.ndarray] = {}
        for key in keys:
            path = f"{name}/{key}".lstrip("/")
            with damage(f"{self.place}, entry {path!r}"):
                link = group.get(key, getlink=True)
                if type(link) is not self.h5py.HardLink:
                    raise self.refuse(path, f"{type(link).__name__} leads elsewhere", "an array")
                entry = group[key]
                if isinstance(entry, self.h5py.Group):
                    entries[key] = self.group(entry, path, depth + 1)
                elif isinstance(entry, self.h5py.Dataset):
                    entries[key] = self.dataset(entry, path)
        return Group(attributes, entries)

    def text(self, group: Any, key: str) -> list[str] | None:
        """An attribute that is a text or a list of them, or a number as a text; else None."""
        attribute = self.h5py.h5a.open(group.id, key.encode("utf8", "surrogateescape"))
        dtype, count = attribute.dtype, math.prod(attribute.shape)
        size = max(dtype.itemsize, 1)
        if dtype.kind == "O":
            if self.h5py.check_string_dtype(dtype) is None:
                return None
            # A length, an address and an index, in this file's sizes.
            if attribute.get_storage_size() != 16 * count:
                raise self.refuse(group.name, f"attribute {key!r} is not of {count} texts")
            # Each may be the same text of the heap.
            size = 16 + self.longest
        if count * size > max(_TEXT_FLOOR, 3 * self.content.size):
            raise self.refuse(group.name, f"attribute {key!r} has {count} texts")
        if dtype.kind not in "OSiu":
            return None
        values = np.ravel(np.asarray(group.attrs[key], dtype=object))
        return [v.decode("utf8", "replace") if isinstance(v, bytes) else str(v) for v in values]

    def dataset(self, dataset: Any, name: str) -> np.ndarray:
        address = self.h5py.h5o.get_info(dataset.id).addr
        if address not in self.arrays:
            self.arrays[address] = self.load(dataset, name)
        return self.arrays[address]

    def load(self, dataset: Any, name: str) -> np.ndarray:
        if dataset.external or dataset.is_virtual:
            raise self.refuse(name, "its values are in other files", "values in this file")
        shape, dtype = dataset.shape, dataset.dtype
        if shape is None or dtype.kind not in "biufcV" or dtype.fields or dtype.subdtype:
            raise self.refuse(name, f"dtype {dtype}, shape {shape}", "an array of numbers")
        size, stored = math.prod(shape) * dtype.itemsize, dataset.id.get_storage_size()
        plist = dataset.id.get_create_plist()
        filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
        if not filters <= _FILTERS:
            raise self.refuse(name, f"filters {sorted(filters)}", f"of {sorted(_FILTERS)}")
        limit = stored * (_MOST_INFLATION if filters else 1)
        if (dataset.chunks is None and stored != size) or size > limit:
            raise self.refuse(name, f"{stored} bytes stored for shape {shape}, {dtype}")
        offset = dataset.id.get_offset()
        if dataset.chunks is not None:
            self.check_chunks(dataset, shape, name)
        elif offset is None and size > 1 << 16:
            raise self.refuse(name, f"{size} bytes without a place in the file")
        # A number of fewer bits than its bytes hold has to be converted.
        as_stored = dtype.kind == "V" or (
            dataset.id.get_type() == self.h5py.h5t.py_create(dtype, logical=True)
        )
        if offset is None or dataset.chunks is not None or not as_stored:
            array = np.asarray(dataset[()])
        elif offset + size > self.content.size:
            raise self.refuse(name, f"ends at byte {offset + size} of {self.content.size}")
        else:
            array = self.content[offset : offset + size].view(dtype).reshape(shape)
        return self.with_extended_dtype(array, dataset, name)

    def check_chunks(self, dataset: Any, shape: tuple[int, ...], name: str) -> None:
        chunks = math.prod(-(-n // c) for n, c in zip(shape, dataset.chunks, strict=True))
        found = dataset.id.get_num_chunks()
        largest = math.prod(dataset.chunks) * dataset.dtype.itemsize
        if found != chunks or largest > max(self.content.size * _MOST_INFLATION, 1 << 16):
            raise self.refuse(name, f"{found} chunks {dataset.chunks} for {shape}", f"{chunks}")

    def with_extended_dtype(self, array: np.ndarray, dataset: Any, name: str) -> np.ndarray:
        """HDF5 knows no bfloat16: two bytes of no type, with or without a mark of Keras."""
        if array.dtype.kind != "V":
            return array
        mark = self.text(dataset, "dtype") if "dtype" in dataset.attrs else None
        if array.dtype.itemsize != 2 or mark not in (None, ["bfloat16"]):
            raise self.refuse(name, f"dtype {array.dtype}, {mark}", "an array of numbers")
        return array.view(ml_dtypes.bfloat16)
