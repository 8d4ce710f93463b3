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
from typing import Self

import ml_dtypes
import numpy as np
import safetensors.numpy

from ...base.errors import CheckpointError, public_api
from .base import CorruptFileError, open_regular, register

# The dtype in memory for every dtype that the format has.
_DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F4": np.dtype(ml_dtypes.float4_e2m1fn),
    "F6_E2M3": np.dtype(ml_dtypes.float6_e2m3fn),
    "F6_E3M2": np.dtype(ml_dtypes.float6_e3m2fn),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
}
# The bits of a number in the file where that is not a whole byte, as it is in memory.
_PACKED = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


class Safetensors:
    """The safetensors format, which many programs read."""

    name = "safetensors"
    suffix = ".safetensors"

    def write(
        self,
        arrays: Mapping[str, np.ndarray],
        path: Path,
        metadata: dict[str, str] | None = None,
    ) -> None:
        # Version 0.8 writes the memory of an array as it lies, whatever its strides are.
        contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        # The package renames a temporary file that only its owner may read.
        path.touch(exist_ok=False)
        mode = path.stat().st_mode
        try:
            safetensors.numpy.save_file(contiguous, path, metadata)
            path.chmod(mode)
        except safetensors.SafetensorError as error:
            # A full disk, for instance: the number is only in the text.
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error

    def read(self, path: Path) -> OpenFile:
        return OpenFile(path)


register(Safetensors())


class OpenFile(Mapping[str, np.ndarray]):
    """The arrays of an open file by name, in the order of the file; each is read when indexed."""

    def __init__(self, path: Path):
        self._name = path.name
        # Unbuffered: np.fromfile reads by the descriptor, and does not know of Python's buffers.
        self._file = io.FileIO(open_regular(path))
        try:
            self._places = self._find_arrays(path)
        except BaseException:
            self._file.close()
            raise

    def _find_arrays(self, path: Path) -> dict[str, tuple[int, int, str, tuple[int, ...]]]:
        """The first byte of each array, the number of its bytes, its dtype and shape."""
        try:
            with safetensors.safe_open(path, framework="numpy") as header:
                slices = {name: header.get_slice(name) for name in header.offset_keys()}
                found = {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
        except safetensors.SafetensorError as error:
            raise CorruptFileError(f"{self._name} is not a safetensors file: {error}") from None
        places = {}
        # A file begins with the length of its header, in 8 bytes.
        start = 8 + int.from_bytes(self._file.read(8), "little")
        for name, (code, shape) in found.items():
            if code not in _DTYPES:
                known = ", ".join(_DTYPES)
                raise CheckpointError(
                    f"cannot read {name!r} in {path}", expected=f"a dtype of {known}", got=code
                )
            # Exact: the package refuses arrays that do not end with a whole byte.
            nbytes = math.prod(shape) * _PACKED.get(code, 8 * _DTYPES[code].itemsize) // 8
            places[name] = (start, nbytes, code, shape)
            start += nbytes
        if start != os.fstat(self._file.fileno()).st_size:
            raise CorruptFileError(f"{self._name} was changed while it was read")
        return places

    def __getitem__(self, name: str) -> np.ndarray:
        start, nbytes, code, shape = self._places[name]
        self._file.seek(start)
        # As bytes, because NumPy has no dtypes of 4 and 6 bits.
        data = np.fromfile(self._file, np.uint8, nbytes)
        if data.size != nbytes:
            raise CorruptFileError(f"{self._name} was changed while it was read")
        if code in _PACKED:
            data = _unpack(data, _PACKED[code])
        # Any other byte in a boolean array makes NumPy give contradictory results.
        if code == "BOOL" and data.max(initial=0) > 1:
            raise CorruptFileError(f"{name!r} in {self._name} has booleans other than 0 and 1")
        # An array without elements may have sizes that no memory would have room for.
        try:
            return data.view(_DTYPES[code]).reshape(shape)
        except ValueError as error:
            raise CorruptFileError(
                f"{name!r} in {self._name} has a shape that NumPy does not support: {error}"
            ) from None

    def place(self, name: str) -> tuple[int, np.dtype, tuple[int, ...]] | None:
        """Where an array begins, its dtype and shape; None if its bytes are not as in memory."""
        start, _, code, shape = self._places[name]
        return None if code in _PACKED else (start, _DTYPES[code], shape)

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
