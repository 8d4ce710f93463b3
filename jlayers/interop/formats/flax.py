"""Flax's msgpack (``flax.serialization``): dicts, and arrays as shape, dtype and bytes.

Read here and not by the package msgpack, because the arrays then stay mapped: that package copies
them twice. The format: https://github.com/msgpack/msgpack/blob/master/spec.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import ml_dtypes
import numpy as np

from ...base.errors import InteropError
from .base import Arrays, Format, Writer, nested, register
from .mapped import map_bytes

_MAX_DEPTH = 100
# A byte of the file can be an object of 64 bytes: these are more than any model has.
_MAX_OBJECTS = 1_000_000
# Beyond these bytes Flax stores an array in pieces.
_MOST_BYTES = 2**30
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"
_DTYPES = {
    **{
        name: np.dtype(name)
        for name in [
            "bool",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "float16",
            "float32",
            "float64",
            "complex64",
            "complex128",
        ]
    },
    **{
        name: np.dtype(getattr(ml_dtypes, name))
        for name in ml_dtypes.__all__
        if name.startswith(("bfloat", "float", "int", "uint"))
    },
}
# Of the first byte: how the length is written, and what follows.
_SIZED = {
    0xC4: (">B", "bin"), 0xC5: (">H", "bin"), 0xC6: (">I", "bin"),
    0xC7: (">B", "ext"), 0xC8: (">H", "ext"), 0xC9: (">I", "ext"),
    0xD9: (">B", "str"), 0xDA: (">H", "str"), 0xDB: (">I", "str"),
    0xDC: (">H", "list"), 0xDD: (">I", "list"), 0xDE: (">H", "map"), 0xDF: (">I", "map"),
}  # fmt: skip
_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class _Decoder:
    """Values of msgpack, one after the other; what is bytes stays a view of the file."""

    def __init__(self, content: np.ndarray, place: str, start: int = 0, end: int | None = None):
        self.content, self.place, self.at = content, place, start
        self.end = content.size if end is None else end
        self.objects = 0
        self.path: list[str] = []

    def fail(self, got: str, expected: str | None = None) -> NoReturn:
        entry = f", entry {'/'.join(self.path)!r}" if self.path else ""
        raise InteropError(
            f"{self.place}{entry} is damaged", got=f"{got}, at byte {self.at}", expected=expected
        )

    def take(self, count: int) -> np.ndarray:
        if count > self.end - self.at:
            self.fail(f"{self.end - self.at} bytes", f"{count}")
        self.at += count
        return self.content[self.at - count : self.at]

    def unpack(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)).tobytes())[0]

    def value(self, depth: int = 0) -> Any:
        self.objects += 1
        if depth > _MAX_DEPTH or self.objects > _MAX_OBJECTS:
            self.fail(f"{self.objects} values, {depth} deep", f"at most {_MAX_DEPTH} deep")
        first = int(self.take(1)[0])
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 256
        if first < 0xC0:
            kind, length = (
                ("map", first & 15) if first < 0x90
                else ("list", first & 15) if first < 0xA0 else ("str", first & 31)
            )  # fmt: skip
        elif first in _CONSTANTS:
            return _CONSTANTS[first]
        elif first in _NUMBERS:
            return self.unpack(_NUMBERS[first])
        elif first in _SIZED:
            form, kind = _SIZED[first]
            length = self.unpack(form)
        elif 0xD4 <= first <= 0xD8:
            kind, length = "ext", 1 << (first - 0xD4)
        else:
            self.fail("a byte of no meaning")
        return self.sized(kind, length, depth)

    def sized(self, kind: str, length: int, depth: int) -> Any:
        if kind in ("bin", "str"):
            content = self.take(length)
            return content if kind == "bin" else self.text(content)
        if kind == "ext":
            code = self.unpack(">b")
            return self.extension(code, length)
        # Each element is a byte at least.
        if length > self.end - self.at:
            self.fail(f"{length} elements in {self.end - self.at} bytes")
        if kind == "list":
            return [self.below(str(i), depth) for i in range(length)]
        values = {}
        for _ in range(length):
            key = self.value(depth + 1)
            if not isinstance(key, str | int):
                self.fail(f"a key that is a {type(key).__name__}", "a string")
            if str(key) in values:
                self.fail(f"the key {key!r} twice")
            values[str(key)] = self.below(str(key), depth)
        return values

    def below(self, key: str, depth: int) -> Any:
        self.path.append(key)
        value = self.value(depth + 1)
        self.path.pop()
        return value

    def text(self, content: np.ndarray) -> str:
        try:
            return content.tobytes().decode()
        except UnicodeDecodeError:
            return self.fail("a string that is not UTF-8")

    def extension(self, code: int, length: int) -> Any:
        if length > self.end - self.at:
            self.fail(f"{self.end - self.at} bytes", f"{length}")
        # Its content is msgpack again.
        inner = _Decoder(self.content, self.place, self.at, self.at + length)
        inner.path = self.path
        if code not in (_ARRAY, _COMPLEX, _SCALAR):
            self.fail(f"an extension {code}", "one of Flax: 1, 2, 3")
        parts = inner.value(_MAX_DEPTH - 2)
        if inner.at != inner.end:
            inner.fail(f"{inner.end - inner.at} bytes left over")
        self.at += length
        if not isinstance(parts, list):
            return self.fail(f"an extension of a {type(parts).__name__}")
        return self.complex(parts) if code == _COMPLEX else self.array(parts)

    def complex(self, parts: list[Any]) -> complex:
        if len(parts) != 2 or not all(isinstance(part, float) for part in parts):
            self.fail(f"a complex number of {len(parts)} parts")
        return complex(*parts)

    def array(self, parts: list[Any]) -> np.ndarray:
        if len(parts) != 3 or not isinstance(parts[0], list) or not _is_bytes(parts[2]):
            self.fail("an array without its three parts", "shape, dtype, bytes")
        shape, name, content = parts
        name = self.text(name) if _is_bytes(name) else name
        dtype = _DTYPES.get(name) if isinstance(name, str) else None
        if dtype is None:
            self.fail(f"the dtype {name!r}", "one of numbers")
        return self.shaped(content, dtype, shape)

    def shaped(self, content: np.ndarray, dtype: np.dtype, shape: list[Any]) -> np.ndarray:
        whole = all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 32
        if not whole or math.prod(shape) * dtype.itemsize != content.nbytes:
            self.fail(f"{content.nbytes} bytes for shape {shape} of {dtype}")
        try:
            return content.view(dtype).reshape(shape)
        except (ValueError, OverflowError):
            return self.fail(f"the shape {shape}")


def _is_bytes(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 1


def _read(path: Path) -> Arrays:
    decoder = _Decoder(map_bytes(path), str(path))
    value = decoder.value()
    if decoder.at != decoder.end:
        decoder.fail(f"{decoder.end - decoder.at} bytes left over")
    return dict(_leaves(decoder, value))


def _leaves(decoder: _Decoder, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    path = "/".join(decoder.path)
    if isinstance(value, list):
        value = {str(i): each for i, each in enumerate(value)}
    if isinstance(value, dict) and value.get(_CHUNKED) is True:
        yield path, _joined(decoder, value)
    elif isinstance(value, dict):
        for key, each in value.items():
            decoder.path.append(key)
            yield from _leaves(decoder, each)
            decoder.path.pop()
    elif isinstance(value, np.ndarray | bool | int | float | complex):
        try:
            yield path, np.asarray(value)
        except OverflowError:
            decoder.fail(f"the number {value}")


def _joined(decoder: _Decoder, value: dict[str, Any]) -> np.ndarray:
    """An array beyond 2**30 bytes, which Flax stores as flat pieces."""
    shape, chunks = value.get("shape"), value.get("chunks")
    if not isinstance(shape, dict) or not isinstance(chunks, dict):
        decoder.fail("a chunked array without shape and chunks")
    pieces = [chunks.get(str(i)) for i in range(len(chunks))]
    sizes = [shape.get(str(i)) for i in range(len(shape))]
    arrays = [piece for piece in pieces if isinstance(piece, np.ndarray) and piece.ndim == 1]
    if len(arrays) < len(pieces) or len({piece.dtype for piece in arrays}) != 1:
        decoder.fail("a chunked array whose pieces are not arrays of one dtype")
    whole = np.concatenate(arrays)
    return decoder.shaped(whole.view(np.uint8), whole.dtype, sizes)


def _write(path: Path, arrays: Arrays) -> None:
    with path.open("wb") as file:
        _pack(file, nested(arrays))


def _pack(file: BinaryIO, value: Any) -> None:
    """Writes what ``flax.serialization.msgpack_serialize`` writes of dicts and arrays."""
    if isinstance(value, dict):
        file.write(_head("map", len(value)))
        for key, each in value.items():
            text = key.encode()
            file.write(_head("str", len(text)) + text)
            _pack(file, each)
    elif isinstance(value, bool):
        file.write(b"\xc3" if value else b"\xc2")
    elif isinstance(value, int):
        file.write(_integer(value))
    elif value.nbytes > _MOST_BYTES:
        flat, size = value.reshape(-1), _MOST_BYTES // value.itemsize
        pieces = [flat[i : i + size] for i in range(0, flat.size, size)]
        shape = {str(i): n for i, n in enumerate(value.shape)}
        chunks = {str(i): piece for i, piece in enumerate(pieces)}
        _pack(file, {_CHUNKED: True, "shape": shape, "chunks": chunks})
    else:
        name = value.dtype.name.encode()
        head = b"\x93" + _head("list", value.ndim) + b"".join(map(_integer, value.shape))
        head += _head("str", len(name)) + name + _head("bin", value.nbytes)
        file.write(_head("ext", len(head) + value.nbytes) + bytes([_ARRAY]) + head)
        file.write(value.reshape(-1).view(np.uint8).data)


def _head(kind: str, length: int) -> bytes:
    """The first bytes of something of that length, the shortest that there are."""
    short = {"map": (0x80, 16), "list": (0x90, 16), "str": (0xA0, 32)}.get(kind)
    if short is not None and length < short[1]:
        return bytes([short[0] | length])
    for first, (form, name) in _SIZED.items():
        if name == kind and length < 1 << 8 * struct.calcsize(form):
            return bytes([first]) + struct.pack(form, length)
    raise InteropError(f"msgpack has no {kind} of {length} elements")


def _integer(value: int) -> bytes:
    if value < 0x80:
        return bytes([value])
    first = next(f for f in (0xCC, 0xCD, 0xCE, 0xCF) if value < 1 << (8 << (f - 0xCC)))
    return bytes([first]) + struct.pack(_NUMBERS[first], value)


def _is_msgpack(path: Path, start: bytes) -> bool:
    """A map whose first key is a name; msgpack has no signature."""
    if path.suffix == ".msgpack":
        return not path.is_dir()
    if not start or not (0x81 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):
        return False
    at = {0xDE: 3, 0xDF: 5}.get(start[0], 1)
    length = start[at] & 31 if start[at : at + 1] and 0xA1 <= start[at] <= 0xBF else 0
    key = start[at + 1 : at + 1 + length]
    return length > 0 and len(key) == length and key.isascii() and key.decode().isprintable()


register(
    Format(
        "flax",
        _is_msgpack,
        _read,
        writer=Writer(_write, (".msgpack", ".flax"), tuple(_DTYPES.values())),
        library="flax",
    )
)
