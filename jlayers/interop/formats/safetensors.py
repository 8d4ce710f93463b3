"""Safetensors: one file, mapped, or several with an index, as the Hugging Face hub has them.

``*.index.json`` says which file each array is in. It is read for torch's sharded files too, which
have the same index.
"""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np

from ...base.errors import CheckpointError, InteropError
from ...checkpoint.formats.base import CorruptFileError
from ...checkpoint.formats.safetensors import OpenFile, Safetensors
from .base import FORMATS, NUMPY_DTYPES, Arrays, Format, Writer, register
from .mapped import map_file

_INDEX = ".index.json"
# In a folder, the first of these is what transformers and diffusers load.
_IN_FOLDERS = (
    "model.safetensors",
    f"model.safetensors{_INDEX}",
    "diffusion_pytorch_model.safetensors",
    f"diffusion_pytorch_model.safetensors{_INDEX}",
    f"pytorch_model.bin{_INDEX}",
)


def _read(path: Path) -> Arrays:
    data = map_file(path)
    arrays = {}
    name = ""
    try:
        with OpenFile(path) as file:
            for name in file:
                place = file.place(name)
                if place is None or place[1] == np.bool_:
                    arrays[name] = file[name]  # unpacked, and checked, in memory of its own
                else:
                    start, dtype, shape = place
                    arrays[name] = np.ndarray(shape, dtype, data, start)
    except CorruptFileError as error:
        raise InteropError(f"{path} is damaged", got=str(error)) from None
    except CheckpointError as error:
        raise InteropError(error.problem, expected=error.expected, got=error.got) from None
    except (TypeError, ValueError, OverflowError, MemoryError) as error:
        raise InteropError(f"{path}: {name!r} does not fit into the file", got=str(error)) from None
    return arrays


def _read_index(path: Path) -> Arrays:
    places = _places(path)
    files: dict[str, Arrays] = {}
    for file in dict.fromkeys(places.values()):
        if not (path.parent / file).is_file():
            raise InteropError(
                f"{path} names {file!r}, which is missing", expected="all files beside the index"
            )
        kind = FORMATS["safetensors" if file.endswith(".safetensors") else "torch"]
        files[file] = kind.read(path.parent / file)
    arrays: dict[str, np.ndarray] = {}
    for name, file in places.items():
        if name not in files[file]:
            raise InteropError(f"{path} says that {name!r} is in {file!r}; it is not")
        arrays[name] = files[file][name]
    for file, found in files.items():
        for name, array in found.items():
            if places.get(name, file) != file or (name in arrays and name not in places):
                raise InteropError(f"{path.parent / file} has {name!r}, which is in another file")
            arrays[name] = array
    return arrays


def _places(path: Path) -> dict[str, str]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise InteropError(f"{path} has one name twice")
        return found

    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise InteropError(f"{path} is not JSON", got=str(error)[:200]) from None
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise InteropError(f"{path} is not an index", expected="a 'weight_map' of names to files")
    for name, file in places.items():
        # Files of the same folder only, whatever the index says.
        if not isinstance(file, str) or not file or Path(file).name != file or "\\" in file:
            raise InteropError(
                f"{path} has a wrong file for {name!r}",
                expected="the name of a file beside the index",
                got=repr(file)[:80],
            )
    return places


def _write(path: Path, arrays: Arrays) -> None:
    if "__metadata__" in arrays:
        raise InteropError("'__metadata__' cannot be the name of an array in a safetensors file")
    # transformers refuses files that do not say whose layouts they have.
    Safetensors().write(arrays, path, {"format": "pt"})


def _in_folder(path: Path) -> Path | None:
    if not path.is_dir():
        return None
    return next((path / name for name in _IN_FOLDERS if (path / name).is_file()), None)


def _recognise(path: Path, start: bytes) -> bool:
    # The length of a header, in 8 bytes of which it fills four at most, and its first bracket.
    return path.suffix == ".safetensors" or start[4:10] == b'\0\0\0\0{"'


def _recognise_index(path: Path, start: bytes) -> bool:
    return path.name.endswith(_INDEX) or _in_folder(path) is not None


def _read_indexed(path: Path) -> Arrays:
    file = _in_folder(path) or path
    return _read_index(file) if file.name.endswith(_INDEX) else _read(file)


_EXTENDED = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
_WRITTEN = [dtype for dtype in NUMPY_DTYPES if dtype != np.complex128] + [
    np.dtype(getattr(ml_dtypes, name)) for name in _EXTENDED
]
register(
    Format("safetensors", _recognise, _read, writer=Writer(_write, (".safetensors",), _WRITTEN))
)
register(Format("safetensors-index", _recognise_index, _read_indexed))
