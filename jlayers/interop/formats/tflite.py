"""TensorFlow Lite (LiteRT): the constant tensors of a model, quantised ones as the floats they are.

Read by the numbers of its schema, in tensorflow/lite/schema/schema.fbs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from .base import Arrays, Format, register
from .binary import (
    BinaryFile,
    check_bytes,
    element_count,
    from_bytes,
    unpack_bits,
)
from .flatbuffer import Table
from .graph import GraphArrays, Node

_IDENTIFIER = b"TFL3"
# By TensorType; the bits of an element where those are fewer than a byte.
_TYPES: dict[int, tuple[np.dtype[Any], int | None]] = {
    0: (np.dtype("<f4"), None),
    1: (np.dtype("<f2"), None),
    2: (np.dtype("<i4"), None),
    3: (np.dtype("u1"), None),
    4: (np.dtype("<i8"), None),
    6: (np.dtype(bool), None),
    7: (np.dtype("<i2"), None),
    8: (np.dtype("<c8"), None),
    9: (np.dtype("i1"), None),
    10: (np.dtype("<f8"), None),
    11: (np.dtype("<c16"), None),
    12: (np.dtype("<u8"), None),
    15: (np.dtype("<u4"), None),
    16: (np.dtype("<u2"), None),
    17: (np.dtype(ml_dtypes.int4), 4),
    18: (np.dtype(ml_dtypes.bfloat16), None),
    19: (np.dtype(ml_dtypes.int2), 2),
    20: (np.dtype(ml_dtypes.uint4), 4),
    21: (np.dtype(ml_dtypes.float8_e4m3fn), None),
    22: (np.dtype(ml_dtypes.float8_e5m2), None),
}
# By BuiltinOperator, those that layouts know.
_OPERATORS = {
    0: "ADD",
    3: "CONV_2D",
    4: "DEPTHWISE_CONV_2D",
    6: "DEQUANTIZE",
    9: "FULLY_CONNECTED",
    18: "MUL",
    22: "RESHAPE",
    36: "GATHER",
    39: "TRANSPOSE",
    43: "SQUEEZE",
    45: "STRIDED_SLICE",
    53: "CAST",
    54: "PRELU",
    67: "TRANSPOSE_CONV",
    70: "EXPAND_DIMS",
    126: "BATCH_MATMUL",
}
# Strings, resources and variants, which are not numbers.
_SKIPPED = (5, 13, 14)


def _read(path: Path) -> Arrays:
    file = BinaryFile(path)
    place = "the model"
    identifier = b"".join(file.unpack(place, "4s", 4))
    if identifier != _IDENTIFIER:
        raise file.error(place, f"must begin with {_IDENTIFIER!r}", got=repr(identifier))
    model = Table(file, place, file.unpack(place, "<I", 0)[0])
    buffers = [_buffer(table) for table in model.tables(4, "buffer")]
    arrays: dict[str, np.ndarray | Callable[[], np.ndarray]] = {}
    keys: dict[tuple[int, int], str] = {}
    for index, subgraph in enumerate(model.tables(2, "subgraph")):
        # The main one comes first; the others are bodies of loops and branches.
        scope = f"{subgraph.text(4) or index}/" if index else ""
        for number, tensor in enumerate(subgraph.tables(0, f"{subgraph.place}, tensor")):
            name = tensor.text(3)
            tensor.place += f" {name!r}"
            array = _constant(tensor, buffers)
            if array is None:
                continue
            # A model may use a name twice, for it finds its tensors by number.
            key = f"{scope}{name}" if f"{scope}{name}" not in arrays else f"{scope}{name}:{number}"
            if key in arrays:
                raise file.error(tensor.place, "must have a name of its own")
            arrays[key] = array
            keys[index, number] = key
    return GraphArrays(arrays, "tflite", lambda: list(_nodes(model, keys)))


def _nodes(model: Table, keys: Mapping[tuple[int, int], str]) -> Iterator[Node]:
    """The operators, and their values; those that are not constant have a number as name."""
    # The old field has one byte; what needs more is 127 there.
    codes = [
        max(code.scalar(0, "b"), code.scalar(3, "i")) for code in model.tables(1, "operator code")
    ]
    for index, subgraph in enumerate(model.tables(2, "subgraph")):
        for operator in subgraph.tables(3, f"{subgraph.place}, operator"):
            code = operator.scalar(0, "I")
            if code >= len(codes):
                raise model.file.error(
                    operator.place, f"must have one of {len(codes)} codes", got=str(code)
                )
            # A tensor that is left out has the number -1.
            inputs, outputs = (
                tuple(
                    "" if number < 0 else keys.get((index, number), f"#{index}.{number}")
                    for number in operator.numbers(field, "<i4").tolist()
                )
                for field in (1, 2)
            )
            yield Node(_OPERATORS.get(codes[code], str(codes[code])), inputs, outputs, {})


def _buffer(buffer: Table) -> tuple[int, int]:
    """Where the bytes are and how many; those of large models come after the tables."""
    offset, size = buffer.scalar(1, "Q"), buffer.scalar(2, "Q")
    if offset > 1:
        buffer.file.check(buffer.place, offset, offset + size)
        return offset, size
    return buffer.vector(0, 1) or (0, 0)


def _constant(
    tensor: Table, buffers: list[tuple[int, int]]
) -> np.ndarray | Callable[[], np.ndarray] | None:
    file, place = tensor.file, tensor.place
    number = tensor.scalar(2, "I")
    if number >= len(buffers):
        raise file.error(place, f"must have one of {len(buffers)} buffers", got=str(number))
    start, size = buffers[number]
    kind = tensor.scalar(1, "b")
    if not size or kind in _SKIPPED:
        return None
    if kind not in _TYPES:
        raise file.error(place, "must have a type that is known", got=f"type {kind}")
    if tensor.table(6, place) is not None:
        raise file.error(place, "must be dense", got="a sparse tensor")
    dtype, bits = _TYPES[kind]
    shape = tuple(tensor.numbers(0, "<i4").tolist())
    count = element_count(file, place, shape)
    check_bytes(file, place, shape, dtype, -(-count * (bits or 8 * dtype.itemsize) // 8), size)
    data = file.bytes(place, start, start + size)

    def stored() -> np.ndarray:
        return unpack_bits(data, dtype, bits, shape) if bits else from_bytes(data, dtype, shape)

    quantization = tensor.table(4, place)
    scale = np.empty(0) if quantization is None else quantization.numbers(2, "<f4")
    if quantization is not None and quantization.scalar(4, "B"):
        raise file.error(
            place, "must be quantised per tensor or per channel", got="a quantisation of its own"
        )
    if quantization is None or not scale.size or "int" not in dtype.name:
        return stored if bits else stored()
    scale, zero = _by_channel(quantization, scale, shape)

    def dequantised() -> np.ndarray:
        # 32 bits and a scale need more than a float32 has until they are multiplied.
        wide = np.float64 if dtype.itemsize > 2 else np.float32
        with np.errstate(all="ignore"):
            array = stored().astype(wide)
            np.subtract(array, zero, out=array, casting="unsafe")
            np.multiply(array, scale, out=array)
            return array.astype(np.float32, copy=False)

    return dequantised


def _by_channel(
    quantization: Table, scale: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points, shaped so that they broadcast against the tensor."""
    file, place = quantization.file, quantization.place
    zero = quantization.numbers(3, "<i8")
    zero = zero if zero.size else np.zeros(1, np.int64)
    axis = quantization.scalar(6, "i")
    channels = shape[axis] if 0 <= axis < len(shape) else 1
    for name, values in (("scales", scale), ("zero points", zero)):
        if values.size not in (1, channels):
            raise file.error(
                place, f"must have 1 or {channels} {name}, by axis {axis}", got=str(values.size)
            )
    if not np.isfinite(scale).all():
        raise file.error(place, "must have finite scales", got=str(scale[~np.isfinite(scale)][0]))
    across = [1] * len(shape)
    if channels != 1:
        across[axis] = channels

    def shaped(values: np.ndarray) -> np.ndarray:
        return values.reshape(across if values.size == channels else [1] * len(shape))

    return shaped(scale), shaped(zero)


register(Format("tflite", lambda path, start: start[4:8] == _IDENTIFIER, _read))
