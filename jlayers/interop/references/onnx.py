"""An ONNX model, run by onnxruntime: each tensor of a copy of the graph is an output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...base.errors import InteropError, truncate
from ...base.types import PyTree
from .base import Given, Reference, named, needed


def _takes(reference: object) -> bool:
    if isinstance(reference, str | os.PathLike):
        return os.fspath(reference).endswith(".onnx")
    return isinstance(reference, bytes) or type(reference).__name__ == "ModelProto"


def _run(reference: Any, inputs: PyTree) -> list[Given]:
    what = "an ONNX model"
    onnx, runtime = needed("onnx", what), needed("onnxruntime", what)
    model = _loaded(reference, onnx)
    graph = model.graph
    outputs = [each.name for each in graph.output]
    tensors = dict(_tensors(graph))
    # Without a type, which onnxruntime finds by itself.
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in outputs)
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_outputs()]
    values = dict(zip(names, session.run(names, _feed(session, inputs)), strict=True))
    given = [
        Given(name, kind, values[name], arrays)
        for name, (kind, arrays) in tensors.items()
        if isinstance(values[name], np.ndarray) and name not in outputs
    ]
    for name in outputs:
        kind, arrays = tensors.get(name, ("", frozenset[str]()))
        for key, array in named(values[name], _array, name if len(outputs) > 1 else ""):
            given.append(Given(key, kind, array, arrays, output=True))
    return given


def _loaded(reference: Any, onnx: Any) -> Any:
    """A copy of the model."""
    try:
        if isinstance(reference, bytes):
            return onnx.load_model_from_string(reference)
        if isinstance(reference, str | os.PathLike):
            return onnx.load(reference)
    except FileNotFoundError:
        raise
    except Exception as error:
        where = "the bytes are" if isinstance(reference, bytes) else f"{os.fspath(reference)} is"
        raise InteropError(f"{where} not an ONNX model", got=truncate(str(error))) from error
    model = onnx.ModelProto()
    model.CopyFrom(reference)
    return model


def _array(value: Any) -> np.ndarray | None:
    """Of a sequence of tensors each is one; optional ones may have none."""
    return value if isinstance(value, np.ndarray) and value.dtype != object else None


def _tensors(graph: Any) -> Iterator[tuple[str, tuple[str, frozenset[str]]]]:
    """What depends on the input: the operator of each tensor, and the initialisers it takes."""
    # Tensors that are computed from initialisers alone, such as a transposed kernel.
    fixed = {each.name: frozenset([each.name]) for each in graph.initializer}
    for node in graph.node:
        taken = [name for name in node.input if name]
        arrays = frozenset[str]().union(*(fixed.get(name, ()) for name in taken))
        made = [name for name in node.output if name]
        if all(name in fixed for name in taken) and not _has_graph(node):
            fixed |= dict.fromkeys(made, arrays | frozenset(made))
        else:
            yield from ((name, (node.op_type, arrays)) for name in made)


def _has_graph(node: Any) -> bool:
    """Whether it has a graph inside it, which may take any tensor of this one."""
    return any(each.HasField("g") or each.graphs for each in node.attribute)


_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def _feed(session: Any, inputs: PyTree) -> dict[str, np.ndarray]:
    wanted = session.get_inputs()
    if not isinstance(inputs, dict):
        arrays = inputs if isinstance(inputs, tuple) else (inputs,)
        if len(arrays) != len(wanted):
            raise InteropError(
                f"the ONNX model takes {len(wanted)} inputs, and got {len(arrays)}",
                expected=", ".join(f"{each.name} {each.shape}" for each in wanted),
                hint="to_reference=lambda x: {name: array}",
            )
        inputs = {each.name: array for each, array in zip(wanted, arrays, strict=True)}
    types = {each.name: _TYPES.get(each.type) for each in wanted}
    return {name: np.asarray(array, types.get(name)) for name, array in inputs.items()}


REFERENCE = Reference("an ONNX model (an .onnx file, its bytes or a ModelProto)", _takes, _run)
