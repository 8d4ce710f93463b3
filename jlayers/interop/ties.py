"""Arrays that a file has under several names, as torch saves tied weights."""

from __future__ import annotations

from collections.abc import Iterable

from .formats.base import Arrays


def tied_names(arrays: Arrays, names: Iterable[str]) -> set[str]:
    """Those of the names whose array an earlier one has too: memory, shape and strides are one."""
    tied, seen = set(), set()
    for name in names:
        array = arrays[name]
        interface = getattr(array, "__array_interface__", None)
        if interface is None or not array.size:
            continue
        place = (interface["data"][0], array.shape, array.strides, array.dtype.str)
        if place in seen:
            tied.add(name)
        seen.add(place)
    return tied
