"""Arrays that a file has under several names, as torch saves tied weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .formats.base import Arrays


def memory_of(arrays: Arrays, name: str) -> tuple[object, ...]:
    """Equal for two names whose arrays are the same memory seen in the same way."""
    array = arrays[name]
    # An array that is made at each use has other memory while the first one lives, and the next
    # one may get that of this one. One without elements is nowhere.
    if not array.size or _start(array) != _start(arrays[name]):
        return (name,)
    return (_start(array), array.shape, getattr(array, "strides", None), array.dtype)


def _start(array: np.ndarray) -> int:
    interface = getattr(array, "__array_interface__", None)
    return id(array) if interface is None else int(interface["data"][0])


def tied_names(arrays: Arrays, names: Iterable[str]) -> set[str]:
    """Those of the names whose array an earlier one has too."""
    tied, seen = set(), set()
    for name in names:
        if (memory := memory_of(arrays, name)) in seen:
            tied.add(name)
        seen.add(memory)
    return tied
