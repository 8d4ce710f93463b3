"""The wire format of Protocol Buffers: fields of a message without copies, and without a schema.

The package ``protobuf`` copies what it parses, and takes at most 2 GB; weights are mapped from the
file instead. See https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .binary import BinaryFile

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_CHUNK = 1 << 16


class Field(NamedTuple):
    """A field of a message: its number, its value if that is a varint, and where its value is."""

    number: int
    kind: int
    value: int
    start: int
    stop: int


class Message:
    """A message, which is some bytes of a file.

    Attributes:
      place: what errors call it.
    """

    def __init__(self, file: BinaryFile, place: str, start: int, stop: int) -> None:
        self.file, self.place, self.start, self.stop = file, place, start, stop

    def fields(self) -> Iterator[Field]:
        """In the order of the file."""
        at = self.start
        while at < self.stop:
            tag, at = self._varint(at)
            number, kind, value, begin = tag >> 3, tag & 7, 0, at
            if kind == _VARINT:
                value, at = self._varint(at)
            elif kind == _BYTES:
                size, begin = self._varint(at)
                at = begin + size
            elif kind in (_EIGHT, _FOUR):
                at += 8 if kind == _EIGHT else 4
            else:
                raise self.file.error(
                    self.place, "must be a message of Protocol Buffers", got=f"kind {kind} at {at}"
                )
            if at > self.stop:
                raise self.file.error(
                    self.place, f"must end at byte {self.stop}", got=f"field {number} to byte {at}"
                )
            yield Field(number, kind, value, begin, at)

    def _varint(self, at: int) -> tuple[int, int]:
        value, data = 0, self.file.data
        for shift in range(0, 70, 7):
            if at >= self.stop:
                break
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2**64 - 1), at
        raise self.file.error(self.place, "must end its numbers", got=f"none ends before byte {at}")

    def inner(self, field: Field, place: str) -> Message:
        """The message that a field holds."""
        self._expect(field, _BYTES)
        return Message(self.file, place, field.start, field.stop)

    def text(self, field: Field) -> str:
        self._expect(field, _BYTES)
        return self.file.text(self.place, field.start, field.stop)

    def number(self, field: Field) -> int:
        """A signed number; others use ``field.value``."""
        self._expect(field, _VARINT)
        return field.value - (2**64 if field.value >= 2**63 else 0)

    def packed(self, field: Field, *kinds: int) -> np.ndarray:
        """The bytes of a repeated number, which are the same in one field and in several."""
        self._expect(field, _BYTES, *kinds)
        return self.file.bytes(self.place, field.start, field.stop)

    def numbers(self, field: Field) -> list[int]:
        """Of a repeated varint, in one field."""
        chunks = varints(self, self.packed(field, _VARINT))
        return [number for chunk in chunks for number in chunk.view(np.int64).tolist()]

    def _expect(self, field: Field, *kinds: int) -> None:
        if field.kind not in kinds:
            raise self.file.error(
                self.place,
                f"must have field {field.number} of kind {' or '.join(map(str, kinds))}",
                got=str(field.kind),
            )


def varints(message: Message, data: np.ndarray) -> Iterator[np.ndarray]:
    """Varints in a row, as uint64, some thousands at a time."""
    at = 0
    while at < data.size:
        chunk = data[at : at + _CHUNK]
        ends = np.flatnonzero(chunk < 0x80)
        starts = np.concatenate([[0], ends[:-1] + 1]) if ends.size else ends
        lengths = ends - starts + 1
        if not ends.size or lengths.max() > 10:
            raise message.file.error(
                message.place, "must have numbers of at most 10 bytes", got=f"at byte {at} of them"
            )
        values = np.zeros(ends.size, np.uint64)
        for position in range(int(lengths.max())):
            more = np.flatnonzero(lengths > position)
            bits = (chunk[starts[more] + position] & 0x7F).astype(np.uint64)
            values[more] |= bits << np.uint64(7 * position)
        yield values
        at += int(ends[-1]) + 1
