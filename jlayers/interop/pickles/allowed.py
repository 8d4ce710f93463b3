"""The names that a pickle may use, each with our own function for it. Nothing else is looked up.

``torch.load(weights_only=True)`` allows the same of torch's; NumPy's, JAX's and some containers
are added. Classes of training loops become records, whose attributes are read like a dict's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ...base.errors import InteropError
from .records import Array, DType, Global, Record, Tensor, check_key, numpy_array

# Of torch's names for dtypes, those that NumPy or ml_dtypes have.
DTYPES: dict[str, np.dtype] = {
    "bool": np.dtype(np.bool_),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
} | {
    name: np.dtype(name)
    for name in (
        *("float16", "float32", "float64", "complex64", "complex128"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
}
STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
}
# Classes without code that we need: TorchScript's, and what is saved beside weights.
_RECORDS = (
    "__torch__.",
    "lightning.",
    "lightning_fabric.",
    "omegaconf.",
    "optax.",
    "pytorch_lightning.",
)
_HINTS = {
    "torch._utils._rebuild_qtensor": "tensor.dequantize() before it is saved",
    "torch._utils._rebuild_sparse_tensor": "tensor.to_dense() before it is saved",
    "torch._utils._rebuild_nested_tensor": "tensor.to_padded_tensor(0.0) before it is saved",
    "joblib.numpy_pickle.NumpyArrayWrapper": "numpy.savez of what joblib.load gives, where the "
    "file is trusted: joblib runs what is in it",
    "torch._utils._rebuild_meta_tensor_no_storage": "a model with values, not on 'meta'",
}


class StorageType:
    """``torch.FloatStorage`` and its like, as persistent ids name them."""

    def __init__(self, dtype: np.dtype | None):
        self.dtype = dtype


def _tensor(
    storage: object, offset: object, shape: object, strides: object, *rest: object
) -> Tensor:
    # rest: requires_grad, hooks, and what it is a lazy conjugate or negative of.
    return _with_metadata(Tensor(storage, offset, shape, strides), rest[2:])


def _untyped_tensor(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    grad: object,
    hooks: object,
    dtype: object,
    *rest: object,
) -> Tensor:
    return _with_metadata(Tensor(storage, offset, shape, strides, dtype), rest)


def _with_metadata(tensor: Tensor, metadata: tuple[object, ...]) -> Tensor:
    if metadata and type(metadata[0]) is dict:
        tensor.conjugated = bool(metadata[0].get("conj"))
        tensor.negated = bool(metadata[0].get("neg"))
    return tensor


def _of_type(make: object, kind: object, args: object, state: object) -> object:
    """A tensor with attributes; they are left out."""
    return _made(make, args)


def _jax_array(make: object, args: object, state: object, weak: object) -> object:
    array = _made(make, args)
    if type(array) is not Array:
        raise InteropError("the pickle is damaged", expected="an array of NumPy inside of JAX's")
    array.build(state)
    return array


def _made(make: object, args: object) -> object:
    if type(make) is not Global or make.make is None or type(args) is not tuple:
        raise InteropError("the pickle is damaged", expected="a function of arrays")
    # One of them must not call itself through the arguments.
    if make.make in (_of_type, _jax_array):
        raise InteropError("the pickle is damaged", got=f"{make.name} inside of itself")
    return make.make(*args)


def _from_buffer(raw: object, dtype: object, shape: object, order: object, *axes: object) -> Array:
    array = Array()
    array.value = numpy_array(raw, dtype, shape, order)
    return array


def _encode(text: object, encoding: object = "utf-8") -> bytes:
    if type(text) is not str or encoding not in ("latin1", "utf-8"):
        raise InteropError(
            "the pickle is damaged", expected="text that holds the bytes of an array"
        )
    return text.encode(encoding)


def _bytes(raw: object = b"", encoding: object = "latin1") -> object:
    return _encode(raw, "latin1") if isinstance(raw, str) else raw


def _dict(*args: object) -> dict[Any, Any]:
    given = args[0] if args else {}
    if type(given) is dict:
        return dict(given)
    if type(given) is Global:  # defaultdict's factory
        return {}
    if not isinstance(given, list | tuple):
        raise InteropError("the pickle is damaged", expected="the entries of a dict")
    return {check_key(key): value for key, value in given}


def _first(value: object = None, *rest: object) -> object:
    return value


def _list(*args: object) -> list[Any]:
    return list(args[0]) if args and isinstance(args[0], list | tuple) else []


def _tuple(*args: object) -> tuple[Any, ...]:
    return tuple(_list(*args))


def _nothing(*args: object) -> None:
    """For numbers, paths and the like, which are left out."""


_FUNCTIONS: dict[str, Callable[..., object]] = {
    "_codecs.encode": _encode,
    "argparse.Namespace": Record,
    "types.SimpleNamespace": Record,
    "copyreg._reconstructor": lambda kind, *base: Record(),
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _dict,
    "collections.Counter": _dict,
    "flax.core.frozen_dict.FrozenDict": _dict,
    "haiku._src.data_structures.FlatMapping": _dict,
    # Where JAX says that its arrays come from; nothing private is imported.
    ".".join(("jax", "_src", "array", "_reconstruct_array")): _jax_array,
    ".".join(("jax", "_src", "device_array", "reconstruct_device_array")): _jax_array,
    "numpy.dtype": DType,
    "torch.Size": _tuple,
    "torch.device": _nothing,
    "torch.nn.parameter.Parameter": _first,
    "torch.nn.parameter.Buffer": _first,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _untyped_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch.jit._pickle.restore_type_tag": _first,
}
for _kind in ("int", "bool", "double", "tensor"):
    _FUNCTIONS[f"torch.jit._pickle.build_{_kind}list"] = _list
for _module in ("builtins", "__builtin__"):
    _FUNCTIONS |= {f"{_module}.{name}": _list for name in ("set", "frozenset", "list")}
    _FUNCTIONS |= {f"{_module}.{name}": _nothing for name in ("complex", "range", "slice")}
    _FUNCTIONS |= {f"{_module}.dict": _dict, f"{_module}.tuple": _tuple}
    _FUNCTIONS |= {f"{_module}.bytearray": _bytes, f"{_module}.bytes": _bytes}
for _kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"):
    _FUNCTIONS |= {f"pathlib.{_kind}": _nothing, f"pathlib._local.{_kind}": _nothing}
for _core in ("numpy.core", "numpy._core"):
    _FUNCTIONS |= {
        f"{_core}.multiarray._reconstruct": Array,
        f"{_core}.multiarray.scalar": _nothing,
        f"{_core}.numeric._frombuffer": _from_buffer,
    }
# Named, but not called: as factories, kinds and arguments.
_VALUES: dict[str, object] = {name: Global(name) for name in ("numpy.ndarray", "typing.Any")}
# Protocol 2, which torch writes, has Python 2's names: "long" and "unicode".
_VALUES |= {
    f"{module}.{name}": Global(f"{module}.{name}")
    for module in ("builtins", "__builtin__")
    for name in ("int", "long", "float", "str", "unicode", "bool")
}
_VALUES |= {name: Global(name) for name in ("torch.Tensor", "torch._tensor.Tensor")}
_VALUES |= {name: Global(name) for name in ("builtins.object", "__builtin__.object")}
_VALUES |= {f"torch.{name}": dtype for name, dtype in DTYPES.items()}
_VALUES |= {
    f"ml_dtypes.{name}": dtype for name, dtype in DTYPES.items() if "float8" in name or "bf" in name
}
_VALUES |= {"torch.storage.UntypedStorage": StorageType(None)}
for _name, _dtype in STORAGES.items():
    _VALUES |= {
        f"{_module}.{_name}Storage": StorageType(DTYPES[_dtype])
        for _module in ("torch", "torch.cuda")
    }
_ALLOWED = {name: Global(name, make) for name, make in _FUNCTIONS.items()} | _VALUES


class Finder:
    """What a pickle's names stand for.

    Args:
      more: further functions, by module and name.
    """

    def __init__(self, more: Mapping[str, Callable[..., object]] | None = None):
        self._more = {name: Global(name, make) for name, make in (more or {}).items()}

    def __call__(self, module: str, name: str) -> object:
        full = f"{module}.{name}"
        found = self._more.get(full) or _ALLOWED.get(full)
        if found is not None:
            return found
        if full.startswith(_RECORDS):
            return Global(full, Record)
        hint = _HINTS.get(
            full, "save arrays alone: dicts and lists of them, of numbers and of text"
        )
        if module.startswith("torch.nn.modules"):
            hint = "torch.save(model.state_dict(), path): this file has the model as an object"
        raise InteropError(
            "the file asks for an object that is not an array",
            expected="tensors, arrays, dicts, lists, numbers and text",
            got=full[:120],
            hint=hint,
        )
