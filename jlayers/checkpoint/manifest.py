"""The manifest of a checkpoint: JSON that says what its arrays are, and where the run stood."""

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
from .formats.safetensors import DamagedFileError, open_regular
from .tree import (
    DTYPES,
    KEYS,
    SCALARS,
    Entry,
)

FORMAT, VERSION = "jlayers checkpoint", 1
# A longer file is none of ours, and would take a multiple of its size to parse.
_MOST_BYTES = 256 << 20
# JSON has no word for these.
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_TAG = "$float"


class Manifest(NamedTuple):
    """All that a checkpoint holds beside the numbers.

    Attributes:
      step: the number of steps taken.
      position: where the data stood, any JSON.
      metrics: by name.
      history: a list of JSON values, what the loop told so far.
      extra: a dict of JSON values, the user's own.
      model: text, or None.
      versions: of what wrote it: "jlayers", "jax", "numpy", "python".
      leaves: what is known of each array, by path.
      sums: the CRC-32 of each array's bytes, by path.
    """

    step: int
    position: Any
    metrics: dict[str, float]
    history: list[Any]
    extra: dict[str, Any]
    model: str | None
    versions: dict[str, str]
    leaves: dict[str, Entry]
    sums: dict[str, int]


def versions(own: str) -> dict[str, str]:
    """Of what writes a checkpoint; ``own`` is jlayers'."""
    python = platform.python_version()
    return {"jlayers": own, "jax": jax.__version__, "numpy": np.__version__, "python": python}


def as_json(what: str, value: Any) -> Any:
    """A value as JSON has it, exactly: numpy's numbers as Python's, tuples as lists.

    Numbers that are not finite become ``{"$float": "nan"}``.

    Raises:
      CheckpointError: for what is no JSON, with its place.

    >>> as_json("extra", {"epoch": np.int64(3), "rates": (0.1, float("inf"))})
    {'epoch': 3, 'rates': [0.1, {'$float': 'inf'}]}
    """
    if isinstance(value, np.generic | np.ndarray | jax.Array) and value.shape == ():
        value = value.item()
    # A history has many numbers: those that are as JSON has them are not called for.
    if isinstance(value, dict) and _TAG not in value and all(type(k) is str for k in value):
        return {
            name: item if _is_plain(item) else as_json(f"{what}[{name!r}]", item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            item if _is_plain(item) else as_json(f"{what}[{i}]", item)
            for i, item in enumerate(value)
        ]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_TAG: repr(float(value))}
    if isinstance(value, str | bool | int | None):
        return value
    expected = "None, bools, numbers, texts; lists and dicts of these, dicts with texts for keys"
    raise CheckpointError(f"{what} is no JSON", expected=expected, got=format_short(value))


def _is_plain(value: Any) -> bool:
    kind = type(value)
    return (kind is float and math.isfinite(value)) or kind is int or kind is str


def from_json(value: Any) -> Any:
    """What ``as_json`` was given, with lists for tuples."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {_TAG}:
            return _NOT_FINITE[value[_TAG]]
        return {name: from_json(item) for name, item in value.items()}
    return value


def text_of(manifest: Manifest) -> str:
    """The file: a line for each field and for each array, the checksum of all that at the end."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        **{name: as_json(name, getattr(manifest, name)) for name in Manifest._fields[:-2]},
        "arrays": {
            path: {
                "kind": entry.kind,
                **({"impl": entry.impl} if entry.impl else {}),
                "dtype": entry.dtype,
                "shape": entry.shape,
                "crc32": f"{manifest.sums[path]:08x}",
            }
            for path, entry in manifest.leaves.items()
        },
    }
    arrays = _lines(content["arrays"], "  ")
    fields = {name: value for name, value in content.items() if name != "arrays"}
    lines = [*_lines(fields, " "), ' "arrays": {\n' + ",\n".join(arrays) + "\n }"]
    lines += _lines({"checksum": _checksum(content)}, " ")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _lines(fields: dict[str, Any], indent: str) -> list[str]:
    return [f"{indent}{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()]


def _checksum(content: dict[str, Any]) -> str:
    # Of the values and not of the text, which may be laid out anew.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, text: str) -> None:
    """Writes a manifest down to the disk."""
    with open(path, "x", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Manifest:
    """Reads a manifest, and trusts nothing in it.

    Raises:
      DamagedFileError: where it is not what was written.
      CheckpointError: where a newer version of jlayers wrote it.
      OSError: where the system cannot read it.
    """
    with open(open_regular(path), "rb") as file:
        if os.fstat(file.fileno()).st_size > _MOST_BYTES:
            raise DamagedFileError(f"{path.name} is too long")
        text = file.read()
    try:
        content = json.loads(text.decode("utf-8"))
        checksum = content.pop("checksum")
        fits = content["format"] == FORMAT and checksum == _checksum(content)
        version, writer = content["version"], content["versions"]["jlayers"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        why = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise DamagedFileError(f"{path.name} is no manifest ({why})") from None
    if not fits:
        raise DamagedFileError(f"the checksum of {path.name} is wrong")
    if version != VERSION:
        raise CheckpointError(
            f"{path} has a format that this jlayers does not know",
            expected=f"version {VERSION}",
            got=f"version {format_short(version)}, of jlayers {format_short(writer)}",
            hint="a newer jlayers",
        )
    try:
        return _parsed(content)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise DamagedFileError(f"{path.name} is no manifest, though its checksum fits") from None


def _parsed(content: dict[str, Any]) -> Manifest:
    leaves, sums = {}, {}
    for path, fields in content["arrays"].items():
        crc32 = fields.pop("crc32")
        leaves[path] = _entry(**fields)
        sums[path] = int(crc32, 16)
    told = {name: from_json(content[name]) for name in Manifest._fields[:-2]}
    manifest = Manifest(**told, leaves=leaves, sums=sums)
    _must(type(manifest.step) is int and manifest.step >= 0)
    _must(all(type(value) is float for value in manifest.metrics.values()))
    _must(type(manifest.history) is list and type(manifest.extra) is dict)
    _must(manifest.model is None or type(manifest.model) is str)
    _must(all(type(value) is str for value in manifest.versions.values()))
    return manifest


def _entry(kind: str, dtype: str, shape: list[int], impl: str | None = None) -> Entry:
    _must(all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 32)
    entry = Entry(kind, dtype, tuple(shape), impl)
    # numpy and JAX have no larger ones, not even with an axis of size 0.
    _must(math.prod(n for n in shape if n) < 1 << 56)
    if kind == "array":
        _must(dtype in DTYPES and impl is None)
    elif kind == "key":
        _must(dtype == "uint32" and impl in KEYS)
    else:
        _must(entry == Entry(kind, SCALARS[kind], ()))
    return entry


def _must(fact: bool) -> None:
    if not fact:
        raise ValueError
