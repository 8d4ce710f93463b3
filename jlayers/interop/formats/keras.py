"""Keras's files: ``.keras`` archives and folders, ``.weights.h5``, and ``.h5`` of all versions.

Keras 3 stores a layer under a path of attributes and, in a list of layers, under its class and a
counter; its variables are numbered. The names of the layers are in ``config.json`` in the order of
the counters and, in files of newer versions, an attribute of each group (``saving_lib.py``).
"""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ...base.errors import InteropError
from .base import NUMPY_DTYPES, Arrays, Format, Writer, register
from .hdf5 import SIGNATURE, Group, damage, import_h5py, natural, read_hdf5
from .keras_names import Node
from .mapped import map_bytes

_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"
# What Keras 2.13 calls the list of layers.
_LISTS = {"_layer_checkpoint_dependencies": "layers"}
_MOST_INFLATION = 1032
_LOCAL_HEADER = 30


def _read_archive(path: Path) -> Arrays:
    if path.is_dir():
        weights, config = path / _WEIGHTS, path / _CONFIG
        if not weights.is_file():
            raise InteropError(f"{path} has no {_WEIGHTS}", hint="only weights in HDF5 are read")
        root = read_hdf5(map_bytes(weights), str(weights))
        return _named(root, _parse(config.read_bytes(), str(config)))
    content = map_bytes(path)
    with damage(str(path)), zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        for name in (_CONFIG, _WEIGHTS):
            if name not in members:
                raise InteropError(
                    f"{path} has no {name}", got=", ".join(members)[:500], expected="a Keras model"
                )
        text = _member(content, members[_CONFIG], path).tobytes()
        weights_bytes = _member(content, members[_WEIGHTS], path)
    place = f"{path}, {_WEIGHTS}"
    return _named(read_hdf5(weights_bytes, place), _parse(text, f"{path}, {_CONFIG}"))


def _member(content: np.ndarray, info: zipfile.ZipInfo, path: Path) -> np.ndarray:
    """The bytes of a member of an archive: mapped where it is stored, and checked."""
    place = f"{path}, {info.filename}"
    header = content[info.header_offset : info.header_offset + _LOCAL_HEADER].tobytes()
    extra = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = info.header_offset + _LOCAL_HEADER + extra
    stored = content[start : start + info.compress_size]
    stretched = info.file_size > _MOST_INFLATION * info.compress_size
    if header[:4] != b"PK\x03\x04" or stored.size != info.compress_size or stretched:
        raise InteropError(
            f"{place} is damaged",
            got=f"{info.file_size} bytes from {stored.size} at byte {start}",
        )
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InteropError(f"{place} is stored in a way that Keras does not write")
    if info.compress_type == zipfile.ZIP_DEFLATED:
        inflated = zlib.decompressobj(-15).decompress(stored.data, info.file_size)
        stored = np.frombuffer(inflated, np.uint8)
    if stored.size != info.file_size or zlib.crc32(stored.data) != info.CRC:
        raise InteropError(f"{place} is damaged", got="a checksum that is not its own")
    return stored


def _parse(text: bytes, place: str) -> Node | None:
    with damage(place):
        return Node.of(json.loads(text))


def _named(root: Group, model: Node | None) -> Arrays:
    """The arrays of a model by ``layer/variable``, in the order of the layers."""
    named: list[tuple[str, str, np.ndarray]] = []
    _collect(root, model, "", "", named)
    return _unique(named)


def _unique(named: list[tuple[str, str, np.ndarray]]) -> dict[str, np.ndarray]:
    """By name; those whose names are the same are called by their paths in the file."""
    times: dict[str, int] = {}
    for name, path, _ in named:
        for each in {name, path}:
            times[each] = times.get(each, 0) + 1
    return {name if times[name] == 1 else path: array for name, path, array in named}


def _collect(
    group: Group,
    node: Node | None,
    name: str,
    path: str,
    named: list[tuple[str, str, np.ndarray]],
) -> None:
    own = group.entries.get("vars")
    if isinstance(own, Group):
        keys = list(own.entries)
        names = node.variables(keys) if node is not None else keys
        for key, variable in zip(keys, names, strict=True):
            array = own.entries[key]
            if isinstance(array, np.ndarray):
                named.append((_join(name, variable), _join(path, "vars", key), array))
    for key in sorted(group.entries, key=lambda key: (key != "layers", natural(key))):
        child = group.entries[key]
        below = _join(path, key)
        if key == "vars" or not isinstance(child, Group):
            continue
        counted = node.counted(_LISTS.get(key, key)) if node is not None else {}
        if not counted:
            inner = node.child(key) if node is not None else None
            # A list of layers that the configuration does not describe has no name.
            own_name = _name(child, inner, key) if below != "optimizer" else key
            _collect(child, inner, _join(name, own_name), below, named)
            continue
        order = {key: i for i, key in enumerate(counted)}
        for each in sorted(
            child.entries, key=lambda key: (order.get(key, len(order)), natural(key))
        ):
            layer = child.entries[each]
            if isinstance(layer, Group):
                inner = counted.get(each)
                own_name = _join(name, _name(layer, inner, each))
                _collect(layer, inner, own_name, _join(below, each), named)


def _name(group: Group, node: Node | None, key: str) -> str:
    """A layer's name: as newer versions write it beside the variables, or by the configuration."""
    own = group.entries.get("vars")
    names = own.attributes.get("name", []) if isinstance(own, Group) else []
    if len(names) == 1 and names[0]:
        return names[0]
    return key if node is None or node.name is None else node.name


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _read_h5(path: Path) -> Arrays:
    root = read_hdf5(map_bytes(path), str(path))
    weights = root.entries.get("model_weights", root)
    if not isinstance(weights, Group):
        raise InteropError(f"{path}, entry 'model_weights' must be a group")
    layers = _texts(weights, "layer_names")
    if layers is None and "nb_layers" in weights.attributes:
        layers = [key for key in weights.entries if key.startswith("layer_")]
    if layers is None:
        return dict(_flat(root, ""))
    named: list[tuple[str, str, np.ndarray]] = []
    for layer in [*layers, "top_level_model_weights"]:
        group = weights.entries.get(layer)
        if isinstance(group, Group):
            _collect_legacy(group, layer, path, named)
        elif layer in layers:
            raise InteropError(f"{path} has no layer {layer!r}, which its 'layer_names' names")
    optimizer = root.entries.get("optimizer_weights")
    if isinstance(optimizer, Group):
        _collect_legacy(optimizer, "optimizer", path, named)
    return _unique(named)


def _collect_legacy(
    group: Group, layer: str, path: Path, named: list[tuple[str, str, np.ndarray]]
) -> None:
    """The weights of a layer in the order that its attribute gives."""
    arrays = dict(_flat(group, ""))
    weights = _texts(group, "weight_names")
    if weights is None:
        weights = [] if "nb_params" not in group.attributes else list(arrays)
    for weight in weights:
        array = arrays.get(weight.strip("/"))
        if array is None:
            raise InteropError(
                f"{path}, layer {layer!r} has no weight {weight!r}, which its 'weight_names' names"
            )
        parts = weight.removesuffix(":0").split("/")
        # Keras 3 begins with the model's name, Keras 2 with the layer's, Keras 1 has "layer_W".
        parts = parts[parts.index(layer) + 1 :] if layer in parts[:-1] else parts
        named.append((_join(layer, *parts), _join(layer, weight), array))


def _texts(group: Group, name: str) -> list[str] | None:
    """A list of texts, which is split into several attributes where it is long."""
    if name in group.attributes:
        return group.attributes[name]
    parts: list[list[str]] = []
    while f"{name}{len(parts)}" in group.attributes:
        parts.append(group.attributes[f"{name}{len(parts)}"])
    return [text for part in parts for text in part] if parts else None


def _flat(group: Group, path: str) -> Any:
    for key, entry in group.entries.items():
        if isinstance(entry, Group):
            yield from _flat(entry, _join(path, key))
        else:
            yield _join(path, key), entry


def _write_h5(path: Path, arrays: Arrays) -> None:
    h5py = import_h5py(f"{path.suffix} files")
    for name in arrays:
        if name.split("/")[-2:-1] != ["vars"]:
            raise InteropError(
                f"{name!r} is not a name in a .weights.h5 file",
                expected="numbers of variables, such as 'layers/dense/vars/0'",
                hint='export_state_dict(..., library="keras_weights")',
            )
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            dataset = file.create_dataset(name, data=array)
            if array.dtype == ml_dtypes.bfloat16:
                dataset.attrs["dtype"] = "bfloat16"


def _is_archive(path: Path, start: bytes) -> bool:
    if path.is_dir():
        return (path / _CONFIG).is_file() and (path / "metadata.json").is_file()
    zipped = start.startswith(b"PK\x03\x04")
    return zipped and (
        path.suffix == ".keras" or start[_LOCAL_HEADER:].startswith(b"metadata.json")
    )


register(Format("keras", _is_archive, _read_archive, extra="interop", library="keras"))
_WRITTEN = [dtype for dtype in NUMPY_DTYPES if dtype.kind != "c"] + [np.dtype(ml_dtypes.bfloat16)]
register(
    Format(
        "hdf5",
        lambda path, start: start.startswith(SIGNATURE),
        _read_h5,
        extra="interop",
        writer=Writer(_write_h5, (".weights.h5",), _WRITTEN),
        library="keras",
    )
)
