"""What readers and writers of a format are, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ...base.errors import InteropError

# Arrays by the names that they have in the file; groups, scopes and dicts are joined by "/" or by
# ".", as the format's own library prints them.
Arrays = Mapping[str, np.ndarray]
# What is wanted of them, by the same names.
Template = Mapping[str, jax.ShapeDtypeStruct]


# What every library has.
NUMPY_DTYPES = tuple(
    np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
)


class OfLibrary(dict[str, np.ndarray]):
    """Arrays by name, and the library that writes such files.

    Attributes:
      library: as ``interop.match`` calls it.
    """

    def __init__(self, arrays: Arrays, library: str) -> None:
        super().__init__(arrays)
        self.library = library


class Writer(NamedTuple):
    """How a format is written.

    Attributes:
      write: writes a new file, or fills an empty folder, with arrays that are C-contiguous and in
        native byte order; it raises ``InteropError`` for names that the format cannot have.
      suffixes: of files that ``interop.write`` takes for this format, with their dots.
      dtypes: those that the format has.
      folder: whether it is a folder and not a file.
      sharded: whether it takes arrays of JAX as they lie on their devices, also those of several
        processes, which all call it then.
    """

    write: Callable[[Path, Mapping[str, Any]], None]
    suffixes: tuple[str, ...]
    dtypes: Collection[np.dtype]
    folder: bool = False
    sharded: bool = False


class Format(NamedTuple):
    """A file format that ``interop.read`` knows, and ``interop.write`` where it has a writer.

    Attributes:
      name: for ``read(format=)``.
      recognise: whether a file (its path and first 64 bytes; a folder has none) is of this format.
      read: the arrays of a path that was recognised.
      extra: the extra of jlayers that brings the package it needs, or None.
      writer: how it is written, or None.
      library: the one whose format it is, where its arrays are in its order alone.
      read_onto: the arrays of a path by a template of specs, on the devices of their shardings;
        None where they are placed after they were read.
    """

    name: str
    recognise: Callable[[Path, bytes], bool]
    read: Callable[[Path], Arrays]
    extra: str | None = None
    writer: Writer | None = None
    library: str | None = None
    read_onto: Callable[[Path, Template], dict[str, jax.Array]] | None = None


FORMATS: dict[str, Format] = {}


def register(format: Format) -> None:
    """Adds a format; those registered earlier are asked first."""
    FORMATS[format.name] = format


def check_like(path: Path, name: str, wanted: jax.ShapeDtypeStruct, found: Any) -> None:
    """Raises unless an array, or what is known of one, is as a template has it.

    Raises:
      InteropError: if it has another shape or dtype, or is not there (None).
    """
    spec = None if found is None else (tuple(found.shape), np.dtype(found.dtype))
    if spec != (wanted.shape, wanted.dtype):
        raise InteropError(
            f"{path} does not have {name!r} as the template does",
            expected=f"{wanted.dtype}{list(wanted.shape)}",
            got="nothing of this name" if spec is None else f"{spec[1]}{list(spec[0])}",
        )


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Dicts in dicts, from names joined by ``/``."""
    root: dict[str, Any] = {}
    for name, array in arrays.items():
        *above, last = name.split("/")
        node = root
        for step in above:
            node = node.setdefault(step, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or last in node:
            raise InteropError(
                f"{name!r} cannot be stored",
                expected="names of arrays that are not names of groups too",
                got=", ".join(other for other in arrays if other != name)[:200],
            )
        node[last] = array
    return root
