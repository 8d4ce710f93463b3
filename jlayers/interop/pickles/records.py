"""What pickles are read into: plain records, which hold what the file says and do nothing."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...base.errors import InteropError

# Of numbers, and of text, which is left out like other text. No others: "O" is Python objects.
_CODE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|f16|c8|c16|[SU]\d{1,6}|\?)")


class Global(NamedTuple):
    """A name that a file may use, and our own function for it."""

    name: str
    make: Callable[..., object] | None = None


class Record:
    """An object of a class that we do not have: its arguments, attributes and entries."""

    __slots__ = ("entries", "items")

    def __init__(self, *args: object):
        self.items: list[Any] = list(args)
        self.entries: dict[Any, Any] = {}

    def build(self, state: object) -> None:
        # (attributes of __dict__, attributes of __slots__)
        parts = state if type(state) is tuple and len(state) == 2 else (state,)
        if all(part is None or isinstance(part, dict) for part in parts):
            for part in parts:
                for key, value in part.items() if isinstance(part, dict) else ():
                    self.entries[check_key(key)] = value
        else:
            self.items.append(state)


class DType:
    """``numpy.dtype``; which of its two bytes comes first is in the state."""

    __slots__ = ("dtype",)

    def __init__(self, code: object, align: object = False, copy: object = False):
        if isinstance(code, memoryview | bytes):
            code = str(code, "latin1")
        if isinstance(code, np.dtype):
            self.dtype = code
        elif type(code) is str and _CODE.fullmatch(code):
            self.dtype = np.dtype(code)
        else:
            raise InteropError(
                "an array is not of numbers",
                got=f"dtype {shown(code)}",
                hint="save arrays of numbers, not of Python objects",
            )

    def build(self, state: object) -> None:
        if type(state) is not tuple or len(state) < 5 or any(s is not None for s in state[2:5]):
            raise InteropError("an array is not of numbers", got="a dtype with fields")
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")
        elif state[1] not in ("<", "|", "="):
            raise InteropError("the pickle is damaged", expected="'<' or '>'", got="another order")


class Array:
    """``numpy.ndarray``, of which the state has everything."""

    __slots__ = ("value",)

    def __init__(self, *args: object):
        self.value: np.ndarray | None = None

    def build(self, state: object) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise InteropError("the pickle is damaged", expected="the state of an array")
        _, shape, dtype, fortran, raw = state
        self.value = numpy_array(raw, dtype, shape, "F" if fortran else "C")

    def array(self, where: str) -> np.ndarray:
        if self.value is None:
            raise InteropError(f"{where} has no values")
        return self.value


class Storage:
    """Memory of torch's tensors.

    Attributes:
      dtype: of its elements; None for bytes.
      count: of its elements, as the pickle says.
      data: its bytes, once they are known; the parent's with a view of another storage.
      swapped: whether the bytes are in big-endian order.
    """

    __slots__ = ("count", "data", "dtype", "offset", "parent", "swapped")

    def __init__(
        self, dtype: np.dtype | None, count: int, parent: Storage | None = None, offset: int = 0
    ):
        self.dtype, self.count = dtype, count
        self.parent, self.offset = parent, offset
        self.data: memoryview | None = None
        self.swapped = False

    @property
    def itemsize(self) -> int:
        return 1 if self.dtype is None else self.dtype.itemsize

    def memory(self, where: str) -> memoryview:
        """Its bytes, exactly ``count`` elements."""
        data = self.data if self.parent is None else self.parent.memory(where)
        if data is None:
            raise InteropError(f"{where} has its numbers in a storage that the file does not have")
        start, length = self.offset * self.itemsize, self.count * self.itemsize
        if start + length > len(data):
            raise InteropError(
                f"{where}: its storage is damaged",
                expected=f"{start + length:,} bytes",
                got=f"{len(data):,}",
            )
        return data[start : start + length]


class Tensor:
    """A torch tensor: which elements of a storage it has."""

    __slots__ = ("conjugated", "dtype", "negated", "offset", "shape", "storage", "strides")

    def __init__(
        self, storage: object, offset: object, shape: object, strides: object, dtype: object = None
    ):
        if type(storage) is not Storage:
            raise InteropError("a tensor has no storage", got=type(storage).__name__)
        self.storage = storage
        (self.offset,) = check_sizes((offset,))
        self.shape, self.strides = check_sizes(shape), check_sizes(strides)
        if len(self.shape) != len(self.strides):
            raise InteropError("a tensor is damaged", expected="a stride for each of its axes")
        dtype = storage.dtype if dtype is None else dtype
        if not isinstance(dtype, np.dtype):
            raise InteropError("a tensor has no dtype", got=shown(dtype))
        self.dtype = dtype
        self.conjugated = self.negated = False

    def key(self) -> tuple[object, ...]:
        """Equal for tensors that are the same elements of one entry of an archive."""
        return id(self.storage.data), self.offset, self.shape, self.strides, self.dtype

    def array(self, where: str) -> np.ndarray:
        """A view of its storage, with any strides; a copy of big-endian bytes."""
        memory = self.storage.memory(where)
        size = self.dtype.itemsize
        empty = 0 in self.shape
        sizes = list(zip(self.shape, self.strides, strict=True))
        last = self.offset + sum((n - 1) * s for n, s in sizes if n > 1)
        if not empty and (last + 1) * size > len(memory):
            raise InteropError(
                f"{where} reaches out of its storage",
                expected=f"{(last + 1) * size:,} bytes",
                got=f"{len(memory):,}",
            )
        try:
            if empty:
                array: np.ndarray = np.empty(self.shape, self.dtype)
            else:
                # The stride of an axis of one element may be any number, also one too large.
                strides = [s * size if n > 1 else size for n, s in sizes]
                array = np.ndarray(self.shape, self.dtype, memory, self.offset * size, strides)
        except (ValueError, OverflowError, MemoryError) as error:
            raise InteropError(f"{where} has a shape beyond NumPy's", got=str(error)) from None
        if self.storage.swapped and not empty:
            array = _native(array)
        array = check_booleans(array, where)
        if self.conjugated:
            array = np.conjugate(array)
        return -array if self.negated else array


def numpy_array(raw: object, dtype: object, shape: object, order: object) -> np.ndarray:
    """An array of bytes in the pickle, without a copy unless they are big-endian or text.

    Raises:
      InteropError: if there are more or fewer bytes than the shape says.
    """
    if type(dtype) is not DType:
        raise InteropError("an array has no dtype", got=type(dtype).__name__)
    sizes, kind = check_sizes(shape), dtype.dtype
    if isinstance(raw, str):  # by Python 2
        raw = raw.encode("latin1")
    if not isinstance(raw, bytes | memoryview):
        raise InteropError("an array is not of numbers", got=type(raw).__name__)
    if math.prod(sizes) * kind.itemsize != len(raw):
        raise InteropError(
            "an array is damaged",
            expected=f"{math.prod(sizes) * kind.itemsize:,} bytes for {kind}{list(sizes)}",
            got=f"{len(raw):,}",
        )
    try:
        array: np.ndarray = np.ndarray(sizes, kind, raw, order="F" if order == "F" else "C")
    except (ValueError, OverflowError, MemoryError) as error:
        raise InteropError("an array has a shape beyond NumPy's", got=str(error)) from None
    return check_booleans(array if kind.isnative else array.astype(kind.newbyteorder("=")))


def _native(array: np.ndarray) -> np.ndarray:
    """Big-endian numbers that were mapped as if they were of this machine's order."""
    if array.dtype.itemsize == 1:
        return array
    if array.dtype.kind == "V":  # of ml_dtypes, for which NumPy has only one order
        return array.view(np.uint16).astype("u2").byteswap().view(array.dtype)
    return array.byteswap()


def check_booleans(array: np.ndarray, where: str = "an array") -> np.ndarray:
    # Any other byte in a boolean array makes NumPy give contradictory results.
    if array.dtype == np.bool_ and array.view(np.uint8).max(initial=0) > 1:
        raise InteropError(f"{where} has booleans other than 0 and 1")
    return array


def shown(value: object) -> str:
    """Some of a value, for an error; what a file describes may be too deep for ``repr``."""
    return reprlib.repr(value)[:80]


def check_sizes(sizes: object) -> tuple[int, ...]:
    """A shape or strides: integers from 0 that fit into 63 bits."""
    if not isinstance(sizes, tuple | list):
        raise InteropError("a shape is damaged", got=type(sizes).__name__)
    if len(sizes) > 64 or not all(type(size) is int and 0 <= size < 1 << 60 for size in sizes):
        raise InteropError("a shape is damaged", got=shown(sizes))
    return tuple(sizes)


def check_key(key: object) -> object:
    """A key of a dict, if it is a plain value: hashing deeply nested tuples would end Python."""
    parts = key if type(key) is tuple else (key,)
    plain = (str, int, float, bool, bytes, type(None))
    if not all(type(part) in plain or type(part) is Global for part in parts):
        raise InteropError("a dict has keys that are not names", got=type(key).__name__)
    return key
