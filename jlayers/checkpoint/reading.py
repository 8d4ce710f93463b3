"""Reading parts of arrays from the files of a checkpoint, each checked.

How to read this file: ``read_parts`` goes through the arrays in the order of the files, and hands
out each in the parts that are asked for, put together of those that the files have
(``_assembled``). ``_Files`` opens files when they are needed, and checks them.
"""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from .formats.base import CorruptFileError, find, open_regular
from .layout import array_name, file_name
from .manifest import Manifest
from .parts import Index, Part, overlap, shape_of, within
from .transfer import from_file
from .writing import checksum

# Thousands of processes may have written, and a process may have a thousand files open.
_OPEN = 64


def read_parts(
    path: Path, content: Manifest, wanted: Mapping[str, Sequence[Index]]
) -> Iterator[tuple[str, dict[Index, np.ndarray]]]:
    """The wanted arrays one after the other, each in the wanted parts.

    At no time there are more than the parts of one array, and one part of a file.

    Args:
      path: the checkpoint's directory.
      content: its manifest.
      wanted: the parts that are wanted, by the array's path.

    Raises:
      CorruptFileError: if a file is not the one that was written.
      OSError: if the system cannot read one.
    """
    sources = {leaf: _sources(content.parts[leaf], wanted[leaf]) for leaf in wanted}
    first: dict[int, dict[str, str]] = {}
    for leaf, parts in sources.items():
        if parts:
            name = array_name(leaf, parts[0].place, len(content.sizes))
            first.setdefault(parts[0].file, {})[name] = leaf
        else:
            yield leaf, {}
    with _Files(path, content) as files:
        for number in sorted(first):
            # In the order of the file, which a disk reads fastest.
            for name in files.names(number):
                if name in first[number]:
                    leaf = first[number][name]
                    yield leaf, _assembled(files, leaf, sources[leaf], wanted[leaf])


def _sources(parts: Sequence[Part], indices: Sequence[Index]) -> list[Part]:
    """The parts that hold something of what is wanted."""
    places = {part.place: part for part in parts}
    # On the same mesh what is wanted are parts. Thousands of processes have as many of them, for
    # each array, and comparing all takes minutes.
    if all(index in places for index in indices):
        return [places[index] for index in indices]
    return [part for part in parts if any(overlap(part.place, i) is not None for i in indices)]


def _assembled(
    files: _Files, leaf: str, parts: Sequence[Part], indices: Sequence[Index]
) -> dict[Index, np.ndarray]:
    found: dict[Index, np.ndarray] = {}
    for part in parts:
        array = files.read(leaf, part)
        for index in indices:
            shared = overlap(part.place, index)
            if shared is None:
                continue
            # Without axes a slice would be a number.
            piece = array if shared == part.place else array[within(part.place, shared)]
            if shared == index:  # the part holds all of it
                found[index] = piece
                continue
            if index not in found:
                # Keys have an axis more than their index.
                rest = array.shape[len(index) :]
                found[index] = np.empty((*shape_of(index), *rest), array.dtype)
            found[index][within(index, shared)] = piece
    return found


class _Files:
    """The files of arrays of a checkpoint, the last ones used open."""

    def __init__(self, path: Path, content: Manifest):
        self._path, self._content = path, content
        self._format = find(content.format)
        self._open: collections.OrderedDict[int, tuple[contextlib.ExitStack, Any]]
        self._open = collections.OrderedDict()
        # What each has to hold: names, and the paths that they are of.
        self._expected: list[dict[str, str]] = [{} for _ in content.sizes]
        for leaf, parts in content.parts.items():
            for part in parts:
                name = array_name(leaf, part.place, len(content.sizes))
                self._expected[part.file][name] = leaf

    def _name(self, number: int) -> str:
        return file_name(self._format, number, len(self._content.sizes))

    def names(self, number: int) -> list[str]:
        """The names of the arrays in a file, in its order."""
        return list(self._arrays(number))

    def read(self, leaf: str, part: Part) -> np.ndarray:
        """A part of an array, which is what was written.

        Raises:
          CorruptFileError: if it is not.
        """
        arrays, spec = self._arrays(part.file), self._content.leaves[leaf]
        stored = arrays[array_name(leaf, part.place, len(self._content.sizes))]
        array = from_file(leaf, spec._replace(shape=shape_of(part.place)), stored)
        if checksum(array) != part.crc32:
            raise CorruptFileError(f"the checksum of {leaf!r} in {self._name(part.file)} is wrong")
        return array

    def _arrays(self, number: int) -> Mapping[str, np.ndarray]:
        if number in self._open:
            self._open.move_to_end(number)
        else:
            if len(self._open) == _OPEN:
                self._open.popitem(last=False)[1][0].close()
            stack = contextlib.ExitStack()
            self._open[number] = stack, self._opened(number, stack)
        return cast("Mapping[str, np.ndarray]", self._open[number][1])

    def _opened(self, number: int, stack: contextlib.ExitStack) -> Mapping[str, np.ndarray]:
        file = self._path / self._name(number)
        # Before the format opens it: most corrupt files are truncated ones.
        descriptor = open_regular(file)
        size = os.fstat(descriptor).st_size
        os.close(descriptor)
        # Version 1 of the manifest has no size.
        wanted = self._content.sizes[number]
        if wanted is not None and size != wanted:
            problem = "is truncated" if size < wanted else "is too long"
            raise CorruptFileError(f"{file.name} {problem}: {size} bytes, {wanted} were written")
        opened: Any = self._format.read(file)
        # A format may return a plain mapping.
        if isinstance(opened, contextlib.AbstractContextManager):
            opened = stack.enter_context(opened)
        arrays = cast("Mapping[str, np.ndarray]", opened)
        expected = self._expected[number]
        if arrays.keys() != expected.keys():
            different = min(arrays.keys() ^ expected.keys())
            where = "the manifest" if different in arrays else file.name
            stack.close()
            raise CorruptFileError(
                f"{file.name} does not match the manifest: {different!r} is missing in {where}"
            )
        return arrays

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        while self._open:
            self._open.popitem()[1][0].close()
