"""A tensor of ONNX: its bytes in the model, in numbers of Protocol Buffers, or in another file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ...base.errors import InteropError
from .binary import BinaryFile, check_bytes, element_count, from_bytes, unpack_bits
from .protobuf import Field, Message, varints

_FLOATS, _INT32, _INT64, _DOUBLES, _UINT64 = 4, 5, 7, 10, 11
_STRING = 8


class _Type(NamedTuple):
    """The elements, the field that has them as numbers, and their bits if fewer than a byte."""

    dtype: np.dtype[Any]
    field: int = _INT32
    bits: int | None = None


# By TensorProto.DataType.
_TYPES = {
    1: _Type(np.dtype("<f4"), _FLOATS),
    2: _Type(np.dtype("u1")),
    3: _Type(np.dtype("i1")),
    4: _Type(np.dtype("<u2")),
    5: _Type(np.dtype("<i2")),
    6: _Type(np.dtype("<i4")),
    7: _Type(np.dtype("<i8"), _INT64),
    9: _Type(np.dtype(bool)),
    10: _Type(np.dtype("<f2")),
    11: _Type(np.dtype("<f8"), _DOUBLES),
    12: _Type(np.dtype("<u4"), _UINT64),
    13: _Type(np.dtype("<u8"), _UINT64),
    14: _Type(np.dtype("<c8"), _FLOATS),
    15: _Type(np.dtype("<c16"), _DOUBLES),
    16: _Type(np.dtype(ml_dtypes.bfloat16)),
    17: _Type(np.dtype(ml_dtypes.float8_e4m3fn)),
    18: _Type(np.dtype(ml_dtypes.float8_e4m3fnuz)),
    19: _Type(np.dtype(ml_dtypes.float8_e5m2)),
    20: _Type(np.dtype(ml_dtypes.float8_e5m2fnuz)),
    21: _Type(np.dtype(ml_dtypes.uint4), bits=4),
    22: _Type(np.dtype(ml_dtypes.int4), bits=4),
    23: _Type(np.dtype(ml_dtypes.float4_e2m1fn), bits=4),
    24: _Type(np.dtype(ml_dtypes.float8_e8m0fnu)),
    25: _Type(np.dtype(ml_dtypes.uint2), bits=2),
    26: _Type(np.dtype(ml_dtypes.int2), bits=2),
    27: _Type(np.dtype(ml_dtypes.float6_e2m3fn), bits=6),
    28: _Type(np.dtype(ml_dtypes.float6_e3m2fn), bits=6),
}


class ExternalFiles:
    """Files of data beside a model, each mapped once; none is opened outside its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryFile] = {}

    def open(self, message: Message, location: str) -> BinaryFile:
        if location in self._files:
            return self._files[location]

        def refused(got: str) -> InteropError:
            return message.file.error(
                message.place,
                "must have its data in a file in the folder of the model",
                got=f"{location!r}, {got}",
            )

        try:
            # Where it is after all symbolic links.
            folder, found = self._folder.resolve(), (self._folder / location).resolve()
            if Path(location).is_absolute() or not found.is_relative_to(folder):
                raise refused("which is elsewhere")
            if not found.is_file():
                raise refused("which is not a file")
            self._files[location] = BinaryFile(found)
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, InteropError):
                raise
            raise refused(f"which cannot be opened: {error}") from None
        return self._files[location]


def read_tensor(
    tensor: Message, external: ExternalFiles
) -> tuple[str, np.ndarray | Callable[[], np.ndarray] | None]:
    """Its name, and its array or what makes it; None for one of strings."""
    name, kind, shape, outside = "", 0, [], False
    raw: Field | None = None
    entries: list[Field] = []
    typed: list[Field] = []
    for field in tensor.fields():
        if field.number == 1:
            shape += tensor.numbers(field) if field.kind == 2 else [tensor.number(field)]
        elif field.number == 2:
            kind = tensor.number(field)
        elif field.number == 3:
            raise tensor.file.error(tensor.place, "must be whole", got="a segment")
        elif field.number == 8:
            name = tensor.text(field)
        elif field.number == 9:
            raw = field
        elif field.number == 13:
            entries.append(field)
        elif field.number == 14:
            outside = tensor.number(field) == 1
        else:
            typed.append(field)
    tensor.place += f" {name!r}" if name else ""
    if kind == _STRING:
        return name, None
    if kind not in _TYPES:
        raise tensor.file.error(tensor.place, "must have a type that is known", got=f"type {kind}")
    element = _TYPES[kind]
    count = element_count(tensor.file, tensor.place, shape)
    if raw is None and not outside:
        return name, _from_numbers(tensor, typed, element, count, shape)
    size = -(-count * (element.bits or 8 * element.dtype.itemsize) // 8)
    if outside:
        data = _external(tensor, entries, external, size)
    else:
        assert raw is not None
        data = tensor.packed(raw)
    check_bytes(tensor.file, tensor.place, shape, element.dtype, size, data.size)
    if element.bits:
        bits = element.bits
        return name, lambda: unpack_bits(data, element.dtype, bits, shape)
    return name, from_bytes(data, element.dtype, shape)


def _external(
    tensor: Message, entries: list[Field], external: ExternalFiles, size: int
) -> np.ndarray:
    said = {}
    for field in entries:
        entry = tensor.inner(field, tensor.place)
        pair = {each.number: entry.text(each) for each in entry.fields()}
        said[pair.get(1, "")] = pair.get(2, "")
    file = external.open(tensor, said.get("location", ""))
    numbers = {"offset": 0, "length": size}
    for key in numbers:
        if key in said:
            # As the package writes them: digits of ASCII, few enough to be a size.
            if not (said[key].isascii() and said[key].isdigit() and len(said[key]) < 20):
                raise tensor.file.error(
                    tensor.place, f"must have a number as {key}", got=repr(said[key])
                )
            numbers[key] = int(said[key])
    start = numbers["offset"]
    return file.bytes(f"{tensor.place} of {tensor.file.path}", start, start + numbers["length"])


def _from_numbers(
    tensor: Message, fields: list[Field], element: _Type, count: int, shape: list[int]
) -> np.ndarray | Callable[[], np.ndarray]:
    """Of the field that the type's numbers are in; others are ignored, as everywhere."""
    fixed = {_FLOATS: 5, _DOUBLES: 1}.get(element.field)
    parts = [
        tensor.packed(field, 0 if fixed is None else fixed)
        for field in fields
        if field.number == element.field
    ]
    data = (
        parts[0]
        if len(parts) == 1
        else np.frombuffer(b"".join(part.tobytes() for part in parts), np.uint8)
    )
    if fixed is not None:
        check_bytes(
            tensor.file,
            tensor.place,
            shape,
            element.dtype,
            count * element.dtype.itemsize,
            data.size,
        )
        return from_bytes(data, element.dtype, shape)
    # Two or four elements are in a number, but those of 6 bits have one each.
    packed = element.bits if element.bits in (2, 4) else None
    expected = -(-count * packed // 8) if packed else count
    found = sum(chunk.size for chunk in varints(tensor, data))
    if found != expected:
        raise tensor.file.error(
            tensor.place,
            "must have as many numbers as its shape needs",
            expected=f"{expected} for {element.dtype} of shape {tuple(shape)}",
            got=str(found),
        )

    def made() -> np.ndarray:
        codes = np.empty(expected, f"u{element.dtype.itemsize}")
        at = 0
        for chunk in varints(tensor, data):
            # What is above the bits of a type is its sign.
            codes[at : at + chunk.size] = chunk.astype(codes.dtype)
            at += chunk.size
        if packed:
            return unpack_bits(codes, element.dtype, packed, shape)
        return from_bytes(codes, element.dtype, shape)

    return made
