"""Tables of a FlatBuffers file, each access checked; the package ``flatbuffers`` checks none.

See https://flatbuffers.dev/internals.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .binary import BinaryFile


class Table:
    """A table by the numbers of its fields.

    Attributes:
      place: what errors call it.
    """

    def __init__(self, file: BinaryFile, place: str, position: int) -> None:
        self.file, self.place, self.position = file, place, position
        (back,) = file.unpack(place, "<i", position)
        layout = position - back
        (size,) = file.unpack(place, "<H", layout)
        if size < 4 or size % 2:
            raise file.error(place, "must have a table of fields", got=f"{size} bytes of it")
        self._offsets = file.unpack(place, f"<{size // 2 - 2}H", layout + 4)

    def _at(self, field: int) -> int | None:
        offset = self._offsets[field] if field < len(self._offsets) else 0
        return self.position + offset if offset else None

    def scalar(self, field: int, code: str, default: int = 0) -> Any:
        at = self._at(field)
        return default if at is None else self.file.unpack(self.place, f"<{code}", at)[0]

    def vector(self, field: int, itemsize: int) -> tuple[int, int] | None:
        """Where its items are, and how many; None where the field is left out."""
        at = self._at(field)
        if at is None:
            return None
        start = at + self.file.unpack(self.place, "<I", at)[0] + 4
        (count,) = self.file.unpack(self.place, "<I", start - 4)
        self.file.check(self.place, start, start + count * itemsize)
        return start, count

    def numbers(self, field: int, dtype: str) -> np.ndarray:
        start, count = self.vector(field, np.dtype(dtype).itemsize) or (0, 0)
        return np.frombuffer(self.file.data, dtype, count, start)

    def text(self, field: int) -> str:
        start, count = self.vector(field, 1) or (0, 0)
        return self.file.text(self.place, start, start + count)

    def table(self, field: int, place: str) -> Table | None:
        at = self._at(field)
        if at is None:
            return None
        return Table(self.file, place, at + self.file.unpack(self.place, "<I", at)[0])

    def tables(self, field: int, place: str) -> list[Table]:
        """Of a vector of tables, each in a place of its own."""
        start, count = self.vector(field, 4) or (0, 0)
        positions = [
            start + 4 * index + int(offset)
            for index, offset in enumerate(np.frombuffer(self.file.data, "<u4", count, start))
        ]
        if len(set(positions)) != count:
            raise self.file.error(self.place, f"must have {count} tables of {place}", got="fewer")
        return [Table(self.file, f"{place} {i}", at) for i, at in enumerate(positions)]
