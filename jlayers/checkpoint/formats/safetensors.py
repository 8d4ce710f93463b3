"""Files of the safetensors format (https://huggingface.co/docs/safetensors), by that package.

How to read this file: ``write`` is the package's ``save_file``. For reading, the package parses
and checks the header, which is the part not to be trusted: it guarantees that the arrays lie in
the file without gaps or overlaps. The bytes are then read from there into memory of their own,
because the package makes NumPy arrays neither of float8 nor of packed 4- and 6-bit numbers.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self

import ml_dtypes
import numpy as np

from ...base.errors import CheckpointError, public_api
from .base import CorruptFileError, open_regular, register

# NumPy's dtype, and the bits of a number in the file, for every dtype that the format has.
_DTYPES: dict[str, tuple[type, int]] = {
    "BOOL": (np.bool_, 8),
    "U8": (np.uint8, 8),
    "I8": (np.int8, 8),
    "U16": (np.uint16, 16),
    "I16": (np.int16, 16),
    "U32": (np.uint32, 32),
    "I32": (np.int32, 32),
    "U64": (np.uint64, 64),
    "I64": (np.int64, 64),
    "F4": (ml_dtypes.float4_e2m1fn, 4),
    "F6_E2M3": (ml_dtypes.float6_e2m3fn, 6),
    "F6_E3M2": (ml_dtypes.float6_e3m2fn, 6),
    "F8_E4M3": (ml_dtypes.float8_e4m3fn, 8),
    "F8_E5M2": (ml_dtypes.float8_e5m2, 8),
    "F8_E8M0": (ml_dtypes.float8_e8m0fnu, 8),
    "F8_E4M3FNUZ": (ml_dtypes.float8_e4m3fnuz, 8),
    "F8_E5M2FNUZ": (ml_dtypes.float8_e5m2fnuz, 8),
    "BF16": (ml_dtypes.bfloat16, 16),
    "F16": (np.float16, 16),
    "F32": (np.float32, 32),
    "F64": (np.float64, 64),
    "C64": (np.complex64, 64),
}


class Safetensors:
    """The safetensors format, which many programs read."""

    name = "safetensors"
    suffix = ".safetensors"

    def write(self, arrays: Mapping[str, np.ndarray], path: Path) -> None:
        # Imported here, as in `read`: a program that saves nothing does not wait for it.
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        # Version 0.8 writes the memory of an array as it lies, whatever its strides are.
        contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        try:
            save_file(contiguous, path)
        except SafetensorError as error:
            # The package has no other way to say that the disk is full.
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error

    def read(self, path: Path) -> OpenFile:
        return OpenFile(path)


register(Safetensors())


class _Place(NamedTuple):
    """Where an array lies in the file, and what it is."""

    start: int
    nbytes: int
    code: str
    shape: tuple[int, ...]


class OpenFile(Mapping[str, np.ndarray]):
    """The arrays of an open file by name, in the order of the file; each is read when indexed."""

    def __init__(self, path: Path):
        self._name = path.name
        self._file = io.FileIO(open_regular(path))
        try:
            self._places = self._read_header(path)
        except BaseException:
            self._file.close()
            raise

    def _read_header(self, path: Path) -> dict[str, _Place]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as header:
                slices = {name: header.get_slice(name) for name in header.offset_keys()}
                found = {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
        except SafetensorError as error:
            raise CorruptFileError(f"{self._name} is not a safetensors file: {error}") from None
        places = {}
        start = 8 + int.from_bytes(self._file.read(8), "little")
        for name, (code, shape) in found.items():
            if code not in _DTYPES:
                raise CheckpointError(
                    f"cannot read {name!r} in {path}",
                    expected=f"one of the dtypes {', '.join(_DTYPES)}",
                    got=code,
                )
            # Exact: the package refuses arrays that do not end with a whole byte.
            nbytes = math.prod(shape) * _DTYPES[code][1] // 8
            places[name] = _Place(start, nbytes, code, shape)
            start += nbytes
        if start != os.fstat(self._file.fileno()).st_size:
            raise CorruptFileError(f"{self._name} was changed while it was read")
        return places

    def __getitem__(self, name: str) -> np.ndarray:
        place = self._places[name]
        data = np.empty(place.nbytes, np.uint8)
        self._file.seek(place.start)
        view = data.data
        while view:
            count = self._file.readinto(view)
            if not count:
                raise CorruptFileError(f"{self._name} was changed while it was read")
            view = view[count:]
        dtype, bits = _DTYPES[place.code]
        if bits < 8:
            data = _unpack(data, bits)
        if dtype is np.bool_ and data.size and data.max() > 1:
            raise CorruptFileError(f"{name!r} in {self._name} has booleans other than 0 and 1")
        try:
            return data.view(dtype).reshape(place.shape)
        except ValueError as error:
            raise CorruptFileError(
                f"{name!r} in {self._name} has a shape that NumPy does not support: {error}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._file.close()


def _unpack(data: np.ndarray, bits: int) -> np.ndarray:
    """Numbers of fewer than 8 bits, the first in the lowest bits, as ml_dtypes has them: a byte
    each."""
    numbers = np.unpackbits(data, bitorder="little").reshape(-1, bits)
    return np.packbits(numbers, axis=1, bitorder="little").reshape(-1)


@public_api
def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file, whoever wrote it, by name and in the order of the file.

    Every dtype of the format is read, bfloat16 and the 4-, 6- and 8-bit floats as the dtypes of
    ml_dtypes that JAX uses; the packed 4- and 6-bit ones have a byte each in memory. Metadata is
    ignored. The arrays have memory of their own, and can be written to.

    Raises:
      CheckpointError: if this is not a complete safetensors file.

    >>> import tempfile, pathlib, ml_dtypes, numpy as np
    >>> from safetensors.numpy import save_file
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> save_file({"bias": np.ones(3, ml_dtypes.bfloat16)}, path, metadata={"format": "pt"})
    >>> read_safetensors(path)
    {'bias': array([1, 1, 1], dtype=bfloat16)}
    """
    path = Path(path)
    try:
        with OpenFile(path) as file:
            return dict(file)
    except CorruptFileError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}", got=str(error)) from error
