"""Graph: the nodes of an ONNX graph while it is written.

How to read this file: ``Graph.op`` adds a node and gives the name of what it computes; equal nodes
are written once. ``constant`` and ``shape`` give the names of arrays and of shapes whose sizes are
known only when the model runs. The graph of a loop's body is a ``Graph`` with a parent: it may use
all names of the graphs around it, as ONNX allows, and writes constants and sizes there.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .sizes import Size, Source, evaluate, is_int

Dims = Sequence[Any]
# Larger arrays are compared, and written once for all orders of their axes.
_SMALL = 1024


class Graph:
    """One graph: its nodes, and for the outermost one constants, sizes and all names in use."""

    def __init__(self, parent: Graph | None = None):
        self.parent = parent
        self.root: Graph = self if parent is None else parent.root
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._written: dict[Hashable, tuple[str, ...]] = {}
        self._made: dict[str, onnx.NodeProto] = {}
        if parent is None:
            self.initializers: dict[str, np.ndarray] = {}
            self.symbols: dict[str, Source] = {}
            self.scope = ""
            self._names: dict[str, int] = {}
            self._constants: dict[Hashable, list[str]] = {}

    def fresh(self, hint: str) -> str:
        """A name that nothing in the model has yet."""
        names = self.root._names
        name, count = hint, names.get(hint, 0)
        while name in names:
            name, count = f"{hint}_{count}", count + 1
        names[hint] = max(count, 1)
        names.setdefault(name, 1)
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The name of the one output of a new node, or of an equal one that is there already."""
        return self.ops(kind, *inputs, outputs=1, **attributes)[0]

    def ops(
        self, kind: str, *inputs: str, outputs: int, shared: bool = True, **attributes: Any
    ) -> tuple[str, ...]:
        """The names of the outputs of a node; ``""`` among the inputs is one that is left out."""
        key = (kind, inputs, outputs, repr(sorted(attributes.items()))) if shared else None
        graph: Graph | None = self
        while shared and graph is not None:
            if key in graph._written:
                return graph._written[key]
            graph = graph.parent
        scope = self.root.scope
        name = self.fresh(f"{scope}/{kind}" if scope else kind)
        names = tuple(
            self.fresh(f"{name}:{i}" if outputs > 1 else f"{name}:out") for i in range(outputs)
        )
        given: dict[str, Any] = {k: v for k, v in attributes.items() if v is not None}
        node = helper.make_node(kind, list(inputs), list(names), name=name, **given)
        self.nodes.append(node)
        self._made[names[0]] = node
        if shared:
            self._written[key] = names
        return names

    def maker(self, name: str, kind: str) -> onnx.NodeProto | None:
        """The node that computes ``name``, if it is of this kind."""
        graph: Graph | None = self
        while graph is not None:
            node = graph._made.get(name)
            if node is not None:
                return node if node.op_type == kind else None
            graph = graph.parent
        return None

    def transposed(self, name: str) -> tuple[str, list[int]] | None:
        """What ``name`` is a transpose of, and its order of axes."""
        node = self.maker(name, "Transpose")
        return None if node is None else (node.input[0], list(node.attribute[0].ints))

    def constant(self, value: Any, dtype: Any = None, hint: str = "constant") -> str:
        """The name of an initialiser that holds the array; equal small ones are one."""
        array = np.asarray(value, dtype)
        root = self.root
        # Two parameters that happen to be equal keep their names.
        content = array.tobytes() if array.size <= _SMALL else b""
        alike = root._constants.setdefault((array.dtype, array.shape, content, hint), [])
        for name in alike:
            if content or _same(array, root.initializers[name]):
                return name
        name = self.fresh(hint)
        root.initializers[name] = array
        alike.append(name)
        return name

    def hint_of(self, name: str) -> str:
        """What to call an array that is made from a constant."""
        return "constant" if name.startswith("constant") else name.split(":moved")[0]

    def ints(self, *values: int) -> str:
        """A vector of int64, as shapes and axes are."""
        return self.constant(np.array(values, np.int64))

    def size(self, dim: Size) -> str:
        """The name of a scalar int64: a size."""
        if is_int(dim):
            return self.constant(int(dim), np.int64)
        return evaluate(self.root, dim)

    def shape(self, dims: Dims) -> str:
        """The name of a vector of int64: a shape."""
        if all(map(is_int, dims)):
            return self.ints(*map(int, dims))
        root = self.root
        zero = root.ints(0)
        parts = [
            self.ints(int(dim)) if is_int(dim) else root.op("Unsqueeze", self.size(dim), zero)
            for dim in dims
        ]
        return parts[0] if len(parts) == 1 else root.op("Concat", *parts, axis=0)

    def reshape(self, name: str, shape: Dims, new: Dims) -> str:
        """``name``, of the given shape, with a new one."""
        if list(shape) == list(new):
            return name
        if any(is_int(dim) and int(dim) == 0 for dim in (*shape, *new)):
            return self.op("Reshape", name, self.shape(new), allowzero=1)
        # 0 keeps a size, and -1 is the only one that is left: no size needs to be computed.
        short = [
            dim if is_int(dim) else 0 if i < len(shape) and shape[i] == dim else None
            for i, dim in enumerate(new)
        ]
        if short.count(None) > 1:
            return self.op("Reshape", name, self.shape(new))
        return self.op("Reshape", name, self.ints(*(-1 if d is None else int(d) for d in short)))

    def expand(self, name: str, dims: Dims) -> str:
        """``name`` broadcast to a shape."""
        return self.op("Expand", name, self.shape(dims))

    def transpose(self, name: str, order: Sequence[int]) -> str:
        """``name`` with its axes in another order."""
        if (before := self.transposed(name)) is not None:
            name, order = before[0], [before[1][axis] for axis in order]
        if list(order) == list(range(len(order))):
            return name
        return self.op("Transpose", name, perm=[int(axis) for axis in order])

    def reduce(self, kind: str, name: str, axes: Sequence[int], keepdims: int = 0) -> str:
        """A reduction over axes; of a transposed array, before its transpose."""
        before = self.transposed(name)
        if before is None:
            return self.op(kind, name, self.ints(*axes), keepdims=keepdims)
        source, order = before
        found = self.op(kind, source, self.ints(*(order[a] for a in axes)), keepdims=keepdims)
        if keepdims:
            return self.transpose(found, order)
        rest = [axis for i, axis in enumerate(order) if i not in axes]
        return self.transpose(found, [sorted(rest).index(axis) for axis in rest])

    def cast(self, name: str, dtype: Any) -> str:
        """``name`` as another dtype; a cast to the same one is written too."""
        return self.op("Cast", name, to=element_type(dtype))

    def slice(
        self,
        name: str,
        starts: Dims,
        ends: Dims,
        axes: Sequence[int],
        steps: Sequence[int] | None = None,
    ) -> str:
        """``name[starts:ends:steps]`` along the given axes; sizes may be symbolic."""
        if not len(axes):
            return name
        more = (self.ints(*steps),) if steps is not None and any(s != 1 for s in steps) else ()
        return self.op("Slice", name, self.shape(starts), self.shape(ends), self.ints(*axes), *more)

    def add_input(self, hint: str, shape: Dims, dtype: Any) -> str:
        """A new input, of this name or one like it."""
        name = self.fresh(hint)
        self.inputs.append(value_info(name, shape, dtype, symbols=self.parent is None))
        return name

    def add_output(self, name: str, hint: str, shape: Dims, dtype: Any, new: str = "") -> str:
        """A new output that has the value ``name``; ``new`` is its own, if ``fresh`` gave it."""
        # Neither an input nor what an outer graph computes may itself be an output.
        new = new or self.fresh(hint)
        self.nodes.append(helper.make_node("Identity", [name], [new], name=self.fresh("Identity")))
        self.outputs.append(value_info(new, shape, dtype, symbols=self.parent is None))
        return new

    def proto(self, name: str) -> onnx.GraphProto:
        """The graph as ONNX stores it, without what nothing needs."""
        needed = {output.name for output in self.outputs}
        nodes = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(_read(node))
        nodes.reverse()
        tensors = []
        if self.parent is None:
            arrays = {key: array for key, array in self.initializers.items() if key in needed}
            turned = _turned(arrays)
            nodes = [*(_turn(name, *found) for name, found in turned.items()), *nodes]
            self.initializers = {key: array for key, array in arrays.items() if key not in turned}
            tensors = [tensor(key, array) for key, array in self.initializers.items()]
        return helper.make_graph(nodes, name, self.inputs, self.outputs, tensors)


def entered(graph: Graph, name: str, dtype: Any, wanted: Any) -> str:
    """An input in the dtype that JAX has for it: without x64, that of int64 is int32."""
    return name if np.dtype(dtype) == np.dtype(wanted) else graph.cast(name, wanted)


def _same(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two arrays have the same bits."""
    if x is y:
        return True
    first, second = (np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in (x, y))
    return bool(np.array_equal(first, second))


def _turned(arrays: dict[str, np.ndarray]) -> dict[str, tuple[str, list[int]]]:
    """What is another array with its axes in another order, as the table of a tied head is."""

    def place(array: np.ndarray) -> Hashable:
        return array.__array_interface__["data"][0], array.dtype, array.size

    large = {name: array for name, array in arrays.items() if array.size > _SMALL}
    whole = {place(array): name for name, array in large.items() if array.flags.c_contiguous}
    found = {}
    for name, array in large.items():
        order = np.argsort([-stride for stride in array.strides], kind="stable")
        source = None if array.flags.c_contiguous else whole.get(place(array))
        if source and _layout(array.transpose(order)) == _layout(arrays[source]):
            found[name] = (source, np.argsort(order).tolist())
    return found


def _layout(array: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return array.shape, array.strides


def _turn(name: str, source: str, order: list[int]) -> onnx.NodeProto:
    return helper.make_node("Transpose", [source], [name], name=f"{name}/Transpose", perm=order)


def _read(node: onnx.NodeProto) -> set[str]:
    """All names that a node uses, also those in graphs inside it."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                names |= _read(inner)
    return names


def tensor(name: str, array: np.ndarray) -> onnx.TensorProto:
    """An array as ONNX stores it."""
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)


def element_type(dtype: Any) -> int:
    """The number of a dtype in ONNX."""
    number: int = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return number


def value_info(name: str, shape: Dims, dtype: Any, symbols: bool) -> onnx.ValueInfoProto:
    """Name, dtype and shape of an input or output; sizes as numbers, by name, or unknown."""
    dims = [int(dim) if is_int(dim) else str(dim) if symbols else None for dim in shape]
    return helper.make_tensor_value_info(name, element_type(dtype), dims)
