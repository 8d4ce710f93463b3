"""ONNX: initialisers and constants of a model, external data too.

Read by the numbers of its schema, onnx/onnx.proto, and mapped from the file: the package ``onnx``
copies what it reads, and has opened whatever the paths in a model said.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .base import Arrays, Format, register
from .binary import BinaryFile
from .graph import GraphArrays, Node
from .onnx_tensors import ExternalFiles, read_tensor
from .protobuf import Field, Message

# The version of the format, in field 1, and what a model has next: a producer, a domain, a version
# of its own, a text, a graph or the operators' versions.
_START = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]")
# Of graphs in nodes of graphs: what the package protobuf takes, three messages for each.
_DEPTH = 32


def _read(path: Path) -> Arrays:
    model = Message(file := BinaryFile(path), "the model", 0, file.size)
    reader = _walked(model, path.parent, keep_nodes=False)
    # Nodes take more memory than they have bytes, so that only who asks for them has them made.
    return GraphArrays(
        reader.arrays,
        "onnx",
        lambda: [make() for make in _walked(model, path.parent, keep_nodes=True).nodes],
    )


def _walked(model: Message, folder: Path, *, keep_nodes: bool) -> _Reader:
    reader = _Reader(folder, keep_nodes)
    graphs = 0
    for field in model.fields():
        if field.number == 7:
            graphs += 1
            reader.graph(model.inner(field, "the graph"), "", 0)
        elif field.number == 25:
            reader.function(model.inner(field, "a function"))
    if not graphs:
        size = model.file.size
        raise model.file.error("the model", "must have a graph", got=f"{size} bytes without")
    return reader


class _Reader:
    """Walks through a model, and keeps its arrays."""

    def __init__(self, folder: Path, keep_nodes: bool) -> None:
        self._keep_nodes = keep_nodes
        self.external = ExternalFiles(folder)
        self.arrays: dict[str, np.ndarray | Callable[[], np.ndarray]] = {}
        # Made at last, for a graph names its arrays after the nodes that use them.
        self.nodes: list[Callable[[], Node]] = []

    def graph(
        self, graph: Message, scope: str, depth: int, around: tuple[dict[str, str], ...] = ()
    ) -> None:
        if depth > _DEPTH:
            raise graph.file.error(graph.place, f"must be at most {_DEPTH} graphs deep")
        own: dict[str, str] = {}
        seen = (own, *around)
        for field in graph.fields():
            if field.number == 1:
                self._node(graph.inner(field, f"{graph.place}, node"), scope, depth, seen)
            elif field.number == 5:
                self._tensor(graph.inner(field, f"{graph.place}, initialiser"), scope, own)
            elif field.number == 15:
                raise graph.file.error(graph.place, "must be dense", got="a sparse initialiser")

    def function(self, function: Message) -> None:
        """What exporters call for a module: its constants are in it, its weights in the graph."""
        fields = list(function.fields())
        names = [function.text(field) for field in fields if field.number == 1]
        function.place = f"function {''.join(names)!r}"
        own: dict[str, str] = {}
        for field in fields:
            if field.number == 7:
                node = function.inner(field, f"{function.place}, node")
                self._node(node, f"{''.join(names)}/", 0, (own,))

    def _node(
        self, node: Message, scope: str, depth: int, seen: tuple[dict[str, str], ...]
    ) -> None:
        inputs: list[str] = []
        outputs: list[str] = []
        attributes, name, operator, own = [], "", "", seen[0]
        for field in node.fields():
            if field.number == 1:
                inputs.append(node.text(field))
            elif field.number == 2:
                outputs.append(node.text(field))
            elif field.number == 3:
                name = node.text(field)
            elif field.number == 4:
                operator = node.text(field)
            elif field.number == 5:
                attributes.append(field)
        label = name or (outputs[0] if outputs else operator)
        node.place += f" {label!r}"
        inner = [node.inner(field, f"{node.place}, attribute") for field in attributes]
        constant = operator == "Constant" and bool(outputs)
        if self._keep_nodes and not constant:
            own |= {
                output: f"{scope}{output}" for output in outputs if output and output not in own
            }
            self.nodes.append(
                lambda: Node(
                    operator,
                    tuple(_known(name, seen, scope) for name in inputs),
                    tuple(_known(name, seen, scope) for name in outputs),
                    dict(map(_attribute, inner)),
                )
            )
        for attribute in inner:
            if constant:
                self._constant(attribute, outputs[0], scope, own)
            else:
                self._graphs(attribute, f"{scope}{label}/", depth, seen)

    def _constant(self, attribute: Message, name: str, scope: str, own: dict[str, str]) -> None:
        floats: list[np.ndarray] = []
        integers: list[int] = []
        single = ""
        for field in attribute.fields():
            if field.number == 1:
                single = attribute.text(field)
            elif field.number == 5:
                self._tensor(attribute.inner(field, f"constant {name!r}"), scope, own, name)
            elif field.number == 22:
                raise attribute.file.error(attribute.place, "must be dense", got="a sparse tensor")
            elif field.number in (2, 7):
                floats.append(attribute.packed(field, 5))
            elif field.number in (3, 8):
                integers += _integers(attribute, field)
        if floats or integers:
            array = np.concatenate(floats).view("<f4") if floats else np.array(integers, np.int64)
            if single in ("value_float", "value_int"):
                array = array.reshape(-1)[-1]
            self._keep(attribute, name, np.asarray(array), scope, own)

    def _graphs(
        self, attribute: Message, scope: str, depth: int, seen: tuple[dict[str, str], ...]
    ) -> None:
        """Branches of a condition, bodies of loops."""
        name = ""
        for field in attribute.fields():
            if field.number == 1:
                name = attribute.text(field)
            elif field.number in (6, 11):
                place = f"graph {f'{scope}{name}'!r}"
                self.graph(attribute.inner(field, place), f"{scope}{name}/", depth + 1, seen)

    def _tensor(
        self, tensor: Message, scope: str, own: dict[str, str], output: str | None = None
    ) -> None:
        name, array = read_tensor(tensor, self.external)
        if output is None and not name:
            raise tensor.file.error(tensor.place, "must have a name")
        if array is not None:
            self._keep(tensor, output or name, array, scope, own)

    def _keep(
        self,
        message: Message,
        name: str,
        array: np.ndarray | Callable[[], np.ndarray],
        scope: str,
        own: dict[str, str],
    ) -> None:
        # Both branches of a condition may use a name; a graph uses it once.
        key = name if name not in self.arrays else f"{scope}{name}"
        if name in own or key in self.arrays:
            raise message.file.error(message.place, "must have a name of its own", got=repr(name))
        own[name] = key
        self.arrays[key] = array


def _known(name: str, seen: tuple[dict[str, str], ...], scope: str) -> str:
    """The value that a graph, or one around it, calls so; or an input of its own."""
    own = f"{scope}{name}" if name else ""
    return next((names[name] for names in seen if name in names), own)


def _attribute(attribute: Message) -> tuple[str, object]:
    """Its name, and its value if that is made of whole numbers or texts."""
    name, listed = "", list[object]()
    value: object = None
    for field in attribute.fields():
        if field.number == 1:
            name = attribute.text(field)
        elif field.number == 3:
            value = attribute.number(field)
        elif field.number == 4:
            value = _lenient(attribute, field)
        elif field.number == 8:
            listed += _integers(attribute, field)
        elif field.number == 9:
            listed.append(_lenient(attribute, field))
    return name, value if value is not None else listed


def _lenient(attribute: Message, field: Field) -> str:
    """A text, which may be any bytes in operators that are not looked at."""
    return attribute.packed(field).tobytes().decode(errors="replace")


def _integers(attribute: Message, field: Field) -> list[int]:
    return attribute.numbers(field) if field.kind == 2 else [attribute.number(field)]


def _is_onnx(path: Path, start: bytes) -> bool:
    return bool(start) and (path.suffix == ".onnx" or bool(_START.match(start)))


register(Format("onnx", _is_onnx, _read))
