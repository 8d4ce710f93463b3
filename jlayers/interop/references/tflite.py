"""A file of TensorFlow Lite, run by an interpreter that keeps what each operator gave."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...base.errors import InteropError
from ...base.types import PyTree
from .base import Given, Reference

_IDENTIFIER = b"TFL3"
# The same class in packages of several names, of which one is enough.
_INTERPRETERS = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")


def _takes(reference: object) -> bool:
    if isinstance(reference, str | os.PathLike):
        return os.fspath(reference).endswith(".tflite")
    return isinstance(reference, bytes) and reference[4:8] == _IDENTIFIER


def _run(reference: Any, inputs: PyTree) -> list[Given]:
    library = _library()
    content = reference if isinstance(reference, bytes) else _content(reference)
    options: dict[str, Any] = {"experimental_preserve_all_tensors": True}
    # A delegate would run many operators as one, and keep what the last of them gave.
    if kinds := getattr(library, "OpResolverType", None):
        options["experimental_op_resolver_type"] = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with warnings.catch_warnings():
        # That to keep all tensors takes memory.
        warnings.simplefilter("ignore")
        interpreter = library.Interpreter(model_content=content, **options)
    _feed(interpreter, inputs)
    interpreter.invoke()
    details = {each["index"]: each for each in interpreter.get_tensor_details()}
    names = _names(interpreter)
    given: list[Given] = []
    taken = [each["index"] for each in interpreter.get_input_details()]
    made = {index for operator in _operators(interpreter) for index in operator["outputs"]}
    for operator in _operators(interpreter):
        constants = [i for i in operator["inputs"] if i in details and i not in (*made, *taken)]
        arrays = frozenset(details[i]["name"] for i in constants)
        given.extend(
            Given(details[i]["name"], operator["op_name"], array, arrays)
            for i in operator["outputs"]
            if i in details and i not in names and (array := _array(interpreter, details[i])).size
        )
    kinds_of = {i: o["op_name"] for o in _operators(interpreter) for i in o["outputs"]}
    for index, name in names.items():
        array = _array(interpreter, details[index])
        key = name if len(names) > 1 else ""
        given.append(Given(key, kinds_of.get(index, ""), array, output=True))
    return given


def _library() -> Any:
    for name in _INTERPRETERS:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise InteropError(
        "a file of TensorFlow Lite is run by ai-edge-litert, which is not installed",
        hint="pip install ai-edge-litert, or activations recorded where it is: {name: array}",
    )


def _content(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _operators(interpreter: Any) -> list[Any]:
    """In the order of the computation."""
    return [each for each in interpreter._get_ops_details() if each["op_name"] != "DELEGATE"]


def _signatures(interpreter: Any) -> list[Any]:
    """What names inputs and outputs, in newer interpreters."""
    found: dict[str, Any] = getattr(interpreter, "_get_full_signature_list", dict)()
    return list(found.values())


def _names(interpreter: Any) -> dict[int, str]:
    """Of the outputs, by their numbers: as its signature says, or else its tensors."""
    found = {each["index"]: each["name"] for each in interpreter.get_output_details()}
    for signature in _signatures(interpreter):
        named = {index: name for name, index in signature["outputs"].items()}
        if set(named) == set(found):
            return {index: named[index] for index in found}
    return found


def _feed(interpreter: Any, inputs: PyTree) -> None:
    wanted = interpreter.get_input_details()
    if isinstance(inputs, Mapping):
        by_name = {each["name"]: each for each in wanted}
        for signature in _signatures(interpreter):
            for name, index in signature["inputs"].items():
                by_name[name] = next(each for each in wanted if each["index"] == index)
        unknown = [name for name in inputs if name not in by_name]
        if unknown or len(inputs) != len(wanted):
            raise InteropError(
                "the file has other inputs", expected=", ".join(by_name), got=", ".join(inputs)
            )
        pairs = [(by_name[name], array) for name, array in inputs.items()]
    else:
        arrays = inputs if isinstance(inputs, tuple) else (inputs,)
        if len(arrays) != len(wanted):
            raise InteropError(
                f"the file takes {len(wanted)} inputs, and got {len(arrays)}",
                expected=", ".join(f"{each['name']} {each['shape']}" for each in wanted),
                hint="to_reference=lambda x: {name: array}",
            )
        pairs = list(zip(wanted, arrays, strict=True))
    for each, array in pairs:
        if list(each["shape"]) != list(array.shape):
            interpreter.resize_tensor_input(each["index"], array.shape)
    interpreter.allocate_tensors()
    for each, array in pairs:
        interpreter.set_tensor(each["index"], _quantised(each, array))


def _quantised(details: Any, array: Any) -> np.ndarray:
    array, dtype = np.asarray(array), np.dtype(details["dtype"])
    scales, zeros = _scales(details)
    if array.dtype.kind == "f" and dtype.kind in "iu" and scales.size:
        limits = np.iinfo(dtype)
        array = np.clip(np.round(array / scales + zeros), limits.min, limits.max)
    elif array.dtype.kind == "f" and dtype.kind in "iu":
        raise InteropError(
            f"the file's input {details['name']!r} is of {dtype}",
            got=str(array.dtype),
            hint=f"to_reference=lambda x: x.astype({dtype.name!r})",
        )
    fed: np.ndarray = array.astype(dtype)
    return fed


def _array(interpreter: Any, details: Any) -> np.ndarray:
    """What a tensor holds, quantised ones as the floats they are."""
    try:
        array = np.array(interpreter.get_tensor(details["index"]))
    except ValueError:
        # One without memory: nothing takes what an operator gave.
        return np.zeros(0)
    if array.dtype.kind not in "biufc":
        return np.zeros(0)
    scales, zeros = _scales(details)
    if array.dtype.kind in "iu" and array.dtype.itemsize < 4 and scales.size:
        wide: np.ndarray = (array.astype(np.float64) - zeros) * scales
        return wide.astype(np.float32)
    return array


def _scales(details: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of an activation there is one, and not one a channel."""
    given = details.get("quantization_parameters", {})
    return np.asarray(given.get("scales", ()))[:1], np.asarray(given.get("zero_points", ()))[:1]


REFERENCE = Reference("a TensorFlow Lite model (a .tflite file or its bytes)", _takes, _run)
