"""The interface of a file format, and the registry that finds one by name.

To add a format: write a module beside this one with a class like ``Format`` that calls
``register``, and add its name to ``_BUILT_IN``. A format in a program of your own only has to
be registered before it is used. tests/checkpoint/test_formats.py has a complete one.
"""

from __future__ import annotations

import importlib
import os
import re
import stat
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np

from ...base.errors import CheckpointError
from ...base.specs import format_short

# Modules of this package, imported when first used: importing jlayers imports no file format.
_BUILT_IN = ("safetensors",)
_formats: dict[str, Format] = {}


class Format(Protocol):
    """How named arrays are stored in one file.

    A checkpoint adds everything else around it: the directory is atomic, the file is synced to
    the disk, and the manifest has the size of the file, and the dtype, shape and checksum of
    every array. So a format may return another dtype of the same size, if it cannot name the
    one it was given, and does not have to detect flipped bits. It must never run code from a file.

    Attributes:
      name: what the manifest and ``format=`` call it.
      suffix: of the file, with its dot.
    """

    name: str
    suffix: str

    def write(self, arrays: Mapping[str, np.ndarray], path: Path) -> None:
        """Writes a new file.

        Args:
          arrays: C-contiguous, in native byte order. Their dtypes are NumPy's booleans, integers
            and floats, and ``bfloat16``, ``float8_e4m3fn`` and ``float8_e5m2`` of ml_dtypes.
          path: of the file, which does not exist.

        Raises:
          OSError: if the system cannot write it.
        """
        ...

    def read(self, path: Path) -> AbstractContextManager[Mapping[str, np.ndarray]]:
        """Opens a file; the mapping reads an array when it is indexed, in the order of the file.

        Raises:
          CorruptFileError: here or when indexed, if this is not what ``write`` writes.
          OSError: if the system cannot read it.
        """
        ...


class CorruptFileError(Exception):
    """A file is not what it was when it was written; the text says which file, and where."""


def register(new: Format) -> None:
    """Registers a format, instead of an earlier one of the same name.

    Raises:
      CheckpointError: for something that is not a format, and for the names of jlayers' own.
    """
    name, suffix = getattr(new, "name", None), getattr(new, "suffix", None)
    methods = [getattr(new, method, None) for method in ("write", "read")]
    if isinstance(new, type) or not all(map(callable, methods)):
        raise CheckpointError(
            "a format must be an object with name, suffix, write and read", got=format_short(new)
        )
    if not isinstance(name, str) or not name.isidentifier():
        raise CheckpointError(f"the name of a format must be a word, got {format_short(name)}")
    if not isinstance(suffix, str) or not re.fullmatch(r"(\.\w+)+", suffix):
        raise CheckpointError(
            f"the suffix of a format must be like '.npz', got {format_short(suffix)}"
        )
    # Files that exist have to stay readable by the format that wrote them.
    if name in _BUILT_IN and type(new).__module__.rpartition(".")[0] != __package__:
        raise CheckpointError(f"the name {name!r} is that of a format of jlayers")
    _formats[name] = new


def find(name: object) -> Format:
    """The format of that name.

    Raises:
      CheckpointError: if there is none.
    """
    # The name may come from a file: no other modules are imported for it.
    if name not in _formats and name in _BUILT_IN:
        importlib.import_module(f".{name}", __package__)
    if not isinstance(name, str) or name not in _formats:
        raise CheckpointError(
            f"unknown checkpoint format {format_short(name)}",
            expected=", ".join(map(repr, known())),
            hint="jlayers.checkpoint.register(format), for a format of your own",
        )
    return _formats[name]


def known() -> list[str]:
    """The names of all formats.

    >>> "safetensors" in known()
    True
    """
    return sorted({*_BUILT_IN, *_formats})


def open_regular(path: Path) -> int:
    """A descriptor for reading; does not block on a pipe that has the file's name.

    Raises:
      CorruptFileError: for anything but a regular file.
    """
    # Windows has neither the flag nor pipes that are files.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CorruptFileError(f"{path.name} is not a regular file")
    return descriptor
