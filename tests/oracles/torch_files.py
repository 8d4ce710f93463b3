"""Files in PyTorch's forms, written byte by byte from their description, without PyTorch."""

import struct
import zipfile
from typing import NamedTuple

import numpy as np

from jlayers.interop.formats.torch import MAGIC


class Name(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    function: Name
    args: tuple


class Made(NamedTuple):
    kind: Name
    attributes: object


class Stored(NamedTuple):
    identity: tuple


KINDS = {"float32": "FloatStorage", "int64": "LongStorage", "bfloat16": "BFloat16Storage"}
KINDS |= {"bool": "BoolStorage", "complex64": "ComplexFloatStorage"}
ORDERED = Name("collections", "OrderedDict")


def pickled(value):
    return b"\x80\2" + _opcodes(value) + b"."


def _opcodes(value):
    match value:
        case Name():
            return f"c{value.module}\n{value.name}\n".encode()
        case Call():
            return _opcodes(value.function) + _opcodes(value.args) + b"R"
        case Made():
            return _opcodes(value.kind) + b")\x81" + _opcodes(value.attributes) + b"b"
        case Stored():
            return _opcodes(value.identity) + b"Q"
        case tuple():
            return b"(" + b"".join(map(_opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(_opcodes, value)) + b"e"
        case dict():
            items = [_opcodes(part) for item in value.items() for part in item]
            return b"}(" + b"".join(items) + b"u"
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            return b"\x8a\x08" + struct.pack("<q", value)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case bytes():
            return b"C" + bytes([len(value)]) + value
    raise TypeError(value)


def tensor(memory, key, shape=None, strides=None, offset=0, *, view=(), metadata=(), count=None):
    """A tensor in a storage that holds all of ``memory``; strides in elements."""
    shape = memory.shape if shape is None else shape
    if strides is None:
        strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    kind = Name("torch", KINDS[memory.dtype.name])
    count = memory.size if count is None else count
    stored = Stored(("storage", kind, key, "cuda:0", count, *view))
    args = (stored, offset, shape, strides, True, Call(ORDERED, ()), *metadata)
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), args)


def write_zip(path, value, storages, *, extra=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled(value))
        for name, content in {"version": "3\n", **dict(extra)}.items():
            archive.writestr(f"archive/{name}", content)
        for key, memory in storages.items():
            archive.writestr(f"archive/data/{key}", memory.tobytes())
    return path


def legacy(value, storages):
    parts = [MAGIC, pickled(1001), pickled({"little_endian": True}), pickled(value)]
    parts.append(pickled(list(storages)))
    for memory in storages.values():
        parts += [struct.pack("<q", memory.size), memory.tobytes()]
    return b"".join(parts)
