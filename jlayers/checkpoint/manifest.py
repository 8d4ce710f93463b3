"""The manifest of a checkpoint: JSON that describes its arrays and the state of the training.

How to read this file: ``as_json`` and ``from_json`` bring users' values to JSON and back without
loss; ``text_of`` and ``write`` make the file; ``read`` and ``_parse`` read it and trust nothing.
Version 1 had no ``file`` entry: its arrays were always in a safetensors file. Version 3 is that of
several processes, with a file of each: arrays have ``parts`` there, and not one checksum.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..base.errors import CheckpointError
from ..base.specs import format_short
from .formats.base import CorruptFileError, open_regular
from .parts import Part, check_grid, parse, whole
from .tree import DTYPES, KEYS, SCALARS, LeafSpec

FORMAT, VERSION = "jlayers checkpoint", 3
# What one file of arrays is written as, so that earlier versions of jlayers read it.
_ONE_FILE = 2
# No manifest of ours is longer, and parsing one takes several times its size in memory.
_MAX_BYTES = 256 << 20
# A text of this length is parsed whatever it holds. Of a longer one Python's objects must not take
# more than so many bytes a byte: there are texts that take 25.
_SHORT, _MOST = 1 << 20, 10
# Bytes of a small list or dict, and of a short string.
_CONTAINER, _STRING = 100, 60
# How deep a value of the user's may be nested; far deeper ones JSON cannot read again.
_DEPTH = 100
# JSON has no syntax for these.
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_TAG = "$float"
# Wraps a dict of the user's that has one of these two as a key.
_ESCAPE = "$dict"


class Manifest(NamedTuple):
    """What a checkpoint holds beside the numbers.

    Attributes:
      step: the number of steps taken.
      position: the position in the data, any JSON value.
      metrics: numbers by name.
      history: a list of JSON values, the records of the loop.
      extra: a dict of JSON values, the user's own.
      model: text, or None.
      versions: of the writer: "jlayers", "jax", "numpy", "python".
      leaves: a ``LeafSpec`` by path.
      parts: by path, the parts that the array is stored in, with the CRC-32 of the bytes of each.
        What one process has written has one part, which is the whole.
      format: the name of the file format.
      sizes: of the files in bytes, one for each process that wrote; None where the manifest does
        not say.
    """

    step: int
    position: Any
    metrics: dict[str, float]
    history: list[Any]
    extra: dict[str, Any]
    model: str | None
    versions: dict[str, str]
    leaves: dict[str, LeafSpec]
    parts: dict[str, tuple[Part, ...]]
    format: str = "safetensors"
    sizes: tuple[int | None, ...] = (None,)

    @property
    def size(self) -> int | None:
        """Bytes of all files together, or None if the manifest does not say."""
        known = [size for size in self.sizes if size is not None]
        return sum(known) if len(known) == len(self.sizes) else None


_VALUES = Manifest._fields[: Manifest._fields.index("leaves")]


def versions(own: str) -> dict[str, str]:
    """The versions of what writes a checkpoint; ``own`` is that of jlayers."""
    python = platform.python_version()
    return {"jlayers": own, "jax": jax.__version__, "numpy": np.__version__, "python": python}


def as_json(what: str, value: object, depth: int = 0) -> Any:
    """A value for JSON, exactly: NumPy's numbers as Python's, tuples as lists.

    Numbers that are not finite become ``{"$float": "nan"}``, a dict with such a key ``{"$dict":
    ...}``.

    Raises:
      CheckpointError: for a value that JSON does not have, naming its place.

    >>> as_json("extra", {"epoch": np.int64(3), "rates": (0.1, float("inf"))})
    {'epoch': 3, 'rates': [0.1, {'$float': 'inf'}]}
    """
    if isinstance(value, np.generic | np.ndarray | jax.Array) and value.shape == ():
        value = value.item()
    if isinstance(value, dict | list | tuple) and depth > _DEPTH:
        raise CheckpointError(
            f"{what.partition('[')[0]} is nested too deeply for a checkpoint",
            expected=f"at most {_DEPTH} lists and dicts in one another",
        )
    depth += 1
    # Histories are long: the values that need no conversion cost no call.
    if isinstance(value, dict) and all(type(k) is str for k in value):
        items = {
            name: item if _is_plain(item) else as_json(f"{what}[{name!r}]", item, depth)
            for name, item in value.items()
        }
        return {_ESCAPE: items} if _TAG in items or _ESCAPE in items else items
    if isinstance(value, list | tuple):
        return [
            item if _is_plain(item) else as_json(f"{what}[{i}]", item, depth)
            for i, item in enumerate(value)
        ]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_TAG: repr(float(value))}
    if isinstance(value, str | bool | int | None):
        return value
    raise CheckpointError(
        f"{what} must be a JSON value",
        expected="None, bools, numbers, strings; lists and dicts of these, with strings as keys",
        got=format_short(value),
    )


def _is_plain(value: object) -> bool:
    # The exact types: NumPy's float64 is a float, too, and True an int.
    # JSON of Python would write NaN as a word that other readers of JSON refuse.
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is int or type(value) is str


def from_json(value: Any) -> Any:
    """The value that ``as_json`` was given, with lists instead of tuples."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {_TAG}:
            return _NOT_FINITE[value[_TAG]]
        if value.keys() == {_ESCAPE}:
            value = value[_ESCAPE]
        return {name: from_json(item) for name, item in value.items()}
    return value


def text_of(manifest: Manifest) -> str:
    """The text of the file: a line a field and a line an array, and the checksum of all at the end.

    Raises:
      CheckpointError: for a value that JSON does not have.
    """
    split = len(manifest.sizes) > 1
    sizes = {"sizes": manifest.sizes} if split else {"size": manifest.sizes[0]}
    fields = {
        "format": FORMAT,
        "version": VERSION if split else _ONE_FILE,
        **{name: as_json(name, getattr(manifest, name)) for name in _VALUES},
        "file": {"format": manifest.format, **sizes},
    }
    arrays = {
        path: {
            "kind": leaf.kind,
            **({"impl": leaf.impl} if leaf.impl else {}),
            "dtype": leaf.dtype,
            "shape": leaf.shape,
            **_parts_json(manifest.parts[path], split),
        }
        for path, leaf in manifest.leaves.items()
    }
    checksum = {"checksum": _checksum({**fields, "arrays": arrays})}
    lines = [*_lines(fields, " "), ' "arrays": {\n' + ",\n".join(_lines(arrays, "  ")) + "\n }"]
    return "{\n" + ",\n".join([*lines, *_lines(checksum, " ")]) + "\n}\n"


def _parts_json(parts: tuple[Part, ...], split: bool) -> dict[str, Any]:
    # As texts: lists of numbers would take far more memory when they are parsed.
    return {"parts": [str(part) for part in parts]} if split else {"crc32": f"{parts[0].crc32:08x}"}


def _lines(fields: dict[str, Any], indent: str) -> list[str]:
    return [f"{indent}{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()]


def _checksum(content: dict[str, Any]) -> str:
    # Of the values, so that the text may be laid out again.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _is_dense(text: bytes) -> bool:
    """Whether parsing a text may take far more memory than the text itself.

    Brackets within strings count too: it is an estimate, and ours are far from the limit.
    """
    containers, strings = text.count(b"[") + text.count(b"{"), text.count(b'"') // 2
    return _CONTAINER * containers + _STRING * strings > _MOST * max(len(text), _SHORT)


def _check_readable(text: bytes) -> None:
    """Raises for what ``read`` would refuse."""
    if len(text) > _MAX_BYTES or _is_dense(text):
        raise CheckpointError(
            "position, history and extra are too large for a checkpoint",
            expected=f"at most {_MAX_BYTES >> 20} MiB, and not of very small lists, dicts and "
            "strings alone",
            got=f"{len(text):,} bytes",
            hint="large values as arrays, in the tree",
        )


def write(path: Path, text: str) -> None:
    """Writes a manifest, down to the disk.

    Raises:
      CheckpointError: for one that is too large to be read again.
    """
    _check_readable(text.encode())
    # The same bytes on every system, and never over an existing file.
    with open(path, "x", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Manifest:
    """Reads a manifest.

    Raises:
      CorruptFileError: if it is not what was written.
      CheckpointError: if a newer version of jlayers wrote it.
      OSError: if the system cannot read it.
    """
    with open(open_regular(path), "rb") as file:
        if os.fstat(file.fileno()).st_size > _MAX_BYTES:
            raise CorruptFileError(f"{path.name} is too long")
        text = file.read()
    # Before it is parsed: nothing is known of it yet.
    if _is_dense(text):
        raise CorruptFileError(f"{path.name} is not a manifest (too many values for its length)")
    try:
        content = json.loads(text.decode("utf-8"))
        checksum = content.pop("checksum")
        matches = content["format"] == FORMAT and checksum == _checksum(content)
        version, writer = content["version"], content["versions"]["jlayers"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        why = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise CorruptFileError(f"{path.name} is not a manifest ({why})") from None
    if not matches:
        raise CorruptFileError(f"the checksum of {path.name} is wrong")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise CheckpointError(
            f"{path} has a format that this version of jlayers does not know",
            expected=f"version 1 to {VERSION}",
            got=f"version {format_short(version)}, of jlayers {format_short(writer)}",
            hint="install a newer jlayers",
        )
    try:
        return _parse(content)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise CorruptFileError(
            f"{path.name} is not a manifest, though its checksum is right"
        ) from None


def _parse(content: dict[str, Any]) -> Manifest:
    # Missing and additional entries raise a KeyError or TypeError, which `read` translates.
    version = content["version"]
    file: dict[str, Any] = (
        {"format": "safetensors", "size": None} if version == 1 else content["file"]
    )
    sizes = _sizes(version, file)
    leaves: dict[str, LeafSpec] = {}
    parts: dict[str, tuple[Part, ...]] = {}
    for path, fields in content["arrays"].items():
        stored = fields.pop("parts" if version == 3 else "crc32")
        leaf = leaves[path] = _leaf_spec(**fields)
        if version != 3:
            parts[path] = (Part(0, whole(leaf.shape), int(stored, 16)),)
            continue
        parts[path] = tuple(map(parse, stored))
        _require(all(part.file < len(sizes) for part in parts[path]))
        check_grid(leaf.shape, [part.place for part in parts[path]])
    values = {name: from_json(content[name]) for name in _VALUES}
    manifest = Manifest(**values, leaves=leaves, parts=parts, format=file["format"], sizes=sizes)
    # The checksum is right, but anyone can compute one.
    _require(type(manifest.step) is int and manifest.step >= 0)
    _require(all(type(value) is float for value in manifest.metrics.values()))
    _require(type(manifest.history) is list and type(manifest.extra) is dict)
    _require(manifest.model is None or type(manifest.model) is str)
    _require(all(type(value) is str for value in manifest.versions.values()))
    _require(type(manifest.format) is str)
    return manifest


def _sizes(version: int, file: dict[str, Any]) -> tuple[int | None, ...]:
    split = version == 3
    _require(file.keys() == {"format", "sizes" if split else "size"})
    sizes = file["sizes"] if split else [file["size"]]
    _require(type(sizes) is list and (len(sizes) > 1) == split)
    _require(all(type(size) is int or (size is None and not split) for size in sizes))
    return tuple(sizes)


def _leaf_spec(kind: str, dtype: str, shape: list[int], impl: str | None = None) -> LeafSpec:
    _require(all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 32)
    leaf = LeafSpec(kind, dtype, tuple(shape), impl)
    # NumPy and JAX have no larger arrays, not even with an axis of size 0.
    _require(math.prod(n for n in shape if n) < 1 << 56)
    if kind == "array":
        _require(dtype in DTYPES and impl is None)
    elif kind == "key":
        _require(dtype == "uint32" and impl in KEYS)
    else:
        _require(leaf == LeafSpec(kind, SCALARS[kind], ()))
    return leaf


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError
