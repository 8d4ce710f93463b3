"""Parts of arrays: where they begin and end, as text, and which of them overlap.

How to read this file: an ``Index`` is where a part of an array lies. A checkpoint of one process
has one ``Part`` of each array, which is the whole; of several processes those that their devices
hold. ``check_grid`` is what makes a list of parts an array again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

Index = tuple[tuple[int, int], ...]

# Numbers of any length would take Python minutes to read.
_AXIS = "[0-9]{1,18}:[0-9]{1,18}"
_PART = re.compile(
    rf"(?P<file>[0-9]{{1,7}}) (?P<place>(?:{_AXIS}(?:,{_AXIS})*)?) (?P<crc32>[0-9a-f]{{8}})"
)


class Part(NamedTuple):
    """A part of an array, as the manifest has it.

    Attributes:
      file: the number of the file that holds it.
      place: the first element and the one after the last, for each axis of the array.
      crc32: the CRC-32 of its bytes.
    """

    file: int
    place: Index
    crc32: int

    def __str__(self) -> str:
        return f"{self.file} {index_text(self.place)} {self.crc32:08x}"


def parse(text: str) -> Part:
    """The part that ``str`` wrote.

    Raises:
      ValueError: for any other text.

    >>> parse("3 0:2,4:8 0000beef")
    Part(file=3, place=((0, 2), (4, 8)), crc32=48879)
    """
    match = _PART.fullmatch(text)
    if match is None:
        raise ValueError(text[:80])
    axes = [axis.split(":") for axis in match["place"].split(",")] if match["place"] else []
    place = tuple((int(start), int(stop)) for start, stop in axes)
    part = Part(int(match["file"]), place, int(match["crc32"], 16))
    # There is one text for a part, without leading zeros.
    if str(part) != text:
        raise ValueError(text[:80])
    return part


def index_text(index: Index) -> str:
    """
    >>> index_text(((0, 2), (4, 8)))
    '0:2,4:8'
    """
    return ",".join(f"{start}:{stop}" for start, stop in index)


def whole(shape: Iterable[int]) -> Index:
    """The index of an array as a whole.

    >>> whole((4, 3))
    ((0, 4), (0, 3))
    """
    return tuple((0, size) for size in shape)


def index_of(slices: Iterable[slice], shape: Iterable[int]) -> Index:
    """The index that slices of a shape are, as JAX has them; further ones are left out.

    >>> index_of((slice(0, 2), slice(None)), (4, 3))
    ((0, 2), (0, 3))
    """
    return tuple(each.indices(size)[:2] for each, size in zip(slices, shape, strict=False))


def shape_of(index: Index) -> tuple[int, ...]:
    """The shape of a part.

    >>> shape_of(((0, 2), (4, 8)))
    (2, 4)
    """
    return tuple(stop - start for start, stop in index)


def overlap(one: Index, other: Index) -> Index | None:
    """What two parts of an array share; None for nothing.

    >>> overlap(((0, 4), (0, 4)), ((2, 6), (0, 2)))
    ((2, 4), (0, 2))
    >>> overlap(((0, 4),), ((4, 8),))
    """
    shared = []
    for (start, stop), (first, last) in zip(one, other, strict=True):
        low, high = max(start, first), min(stop, last)
        # An axis of size 0 is shared by all parts.
        if low >= high and start < stop:
            return None
        shared.append((low, high))
    return tuple(shared)


def within(outer: Index, inner: Index) -> tuple[slice, ...]:
    """The slices that cut ``inner`` out of an array that is ``outer``.

    >>> within(((2, 6), (0, 4)), ((3, 5), (0, 4)))
    (slice(1, 3, None), slice(0, 4, None))
    """
    pairs = zip(outer, inner, strict=True)
    return tuple(slice(low - start, high - start) for (start, _), (low, high) in pairs)


def check_grid(shape: tuple[int, ...], indices: list[Index]) -> None:
    """Raises unless parts are an array once and without gaps, cut along its axes as JAX does it.

    Raises:
      ValueError: saying what is wrong.

    >>> check_grid((4,), [((0, 2),), ((2, 4),)])
    """
    if len(set(indices)) != len(indices):
        raise ValueError("a part occurs twice")
    if any(len(index) != len(shape) for index in indices):
        raise ValueError("a part has other axes than the array")
    cells = 1
    for axis, size in enumerate(shape):
        at, pieces = 0, sorted({index[axis] for index in indices})
        for start, stop in pieces:
            if start != at or not (start < stop or size == 0):
                raise ValueError(f"parts {'overlap' if start < at else 'leave a gap'}")
            at = stop
        if at != size:
            raise ValueError(f"parts {'reach beyond it' if at > size else 'leave a gap'}")
        cells *= len(pieces)
    # Each is one of the cells, and none occurs twice: all are there if there are as many.
    if cells != len(indices):
        raise ValueError("parts are missing")
