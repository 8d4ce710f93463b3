"""One equation of a jaxpr on its way to ONNX: what an emitter is given.

An emitter is a function of a ``Call`` that writes nodes and returns the name of what they compute,
a ``Value``, or a list of them where the equation has several results. ``EMITTERS`` has them by the
primitive's name. An ``elementwise`` one is a function of the call and the names of the operands:
these may be smaller than the operands, as long as they broadcast to them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ...base.errors import InteropError
from .graph import Graph
from .sizes import is_static
from .values import Known, Pair, Tensor, Value


class Runner(Protocol):
    """The converter, as emitters see it."""

    operators: Mapping[str, Callable[[Call], Emitted | None]]

    def run(
        self, program: Any, arguments: Sequence[Value], graph: Graph, consts: Any = None
    ) -> list[Value]:
        """The outputs of a jaxpr."""


Emitted = str | Value | Sequence[str | Value]
Emitter = Callable[["Call"], Emitted]

EMITTERS: dict[str, Emitter] = {}
# Those that are worked out on what is known, whatever the shapes, and on smaller operands.
ELEMENTWISE: dict[str, Callable[..., str]] = {}


class Call:
    """An equation, its operands, and the graph to write to.

    Attributes:
      graph: where nodes go.
      name, params: of the primitive.
      values: the operands.
      avals, outs: specs of operands and results.
      converter: for the jaxprs inside the equation.
    """

    def __init__(
        self,
        converter: Runner,
        graph: Graph,
        name: str,
        params: dict[str, Any],
        values: Sequence[Value],
        avals: Sequence[Any],
        outs: Sequence[Any],
    ):
        self.converter, self.graph, self.name, self.params = converter, graph, name, params
        self.values, self.avals, self.outs = list(values), list(avals), list(outs)
        self.op = graph.op

    @property
    def out(self) -> Any:
        """The spec of the first result."""
        return self.outs[0]

    def shape(self, i: int) -> tuple[Any, ...]:
        """The shape of an operand."""
        return tuple(self.avals[i].shape)

    def dtype(self, i: int) -> np.dtype[Any]:
        """The dtype of an operand."""
        dtype: np.dtype[Any] = np.dtype(self.avals[i].dtype)
        return dtype

    def arg(self, i: int) -> str:
        """The name of an operand in its full shape."""
        return full(self.graph, self.values[i], self.avals[i])

    def args(self) -> list[str]:
        """The names of all operands."""
        return [self.arg(i) for i in range(len(self.values))]

    def loose(self, i: int) -> Tensor:
        """An operand as it is: of a shape that broadcasts to its own."""
        return loose(self.graph, self.values[i])

    def known(self, i: int) -> np.ndarray | None:
        """The values of an operand that does not depend on the inputs."""
        value = self.values[i]
        if not isinstance(value, Known) or not is_static(self.shape(i)):
            return None
        return np.broadcast_to(value.array, self.shape(i))

    def const(self, value: Any, dtype: Any = None) -> str:
        """The name of a constant; a number has the dtype of the first operand by default."""
        return self.graph.constant(value, dtype or self.avals[0].dtype)

    def refuse(self, reason: str, hint: str | None = None) -> InteropError:
        """The error for what this emitter cannot write."""
        return InteropError(f"{self.name} cannot be written in ONNX: {reason}", hint=hint)


def emits(*names: str) -> Callable[[Emitter], Emitter]:
    """Registers an emitter for primitives."""

    def register(emitter: Emitter) -> Emitter:
        EMITTERS.update(dict.fromkeys(names, emitter))
        return emitter

    return register


def elementwise(*names: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Registers a function of the call and its operands' names, for each element by itself."""

    def register(function: Callable[..., str]) -> Callable[..., str]:
        ELEMENTWISE.update(dict.fromkeys(names, function))
        EMITTERS.update(dict.fromkeys(names, functools.partial(_broadcast, function)))
        return function

    return register


def _broadcast(function: Callable[..., str], call: Call) -> Tensor:
    moved = _before_transpose(call)
    if moved is not None:
        names, order, shape = moved
        return Tensor(call.graph.transpose(function(call, *names), order), shape)
    operands = [call.loose(i) for i in range(len(call.values))]
    shape = joined([operand.shape for operand in operands])
    return Tensor(function(call, *(operand.name for operand in operands)), shape)


def _before_transpose(call: Call) -> tuple[list[str], list[int], tuple[Any, ...]] | None:
    """Operands as they were before a transpose that all of them went through, and its order.

    So the transposes around convolutions meet, and cancel each other.
    """
    graph, rank = call.graph, len(call.out.shape)
    orders = [
        found[1]
        for value in call.values
        if isinstance(value, Tensor) and (found := graph.transposed(value.name)) is not None
    ]
    if not orders or len(orders[0]) != rank:
        return None
    order = orders[0]
    names = []
    shapes = []
    for value in call.values:
        shapes.append(value.shape if not isinstance(value, Pair) else ())
        if isinstance(value, Known) and value.array.size == 1:
            names.append(graph.constant(value.array.reshape(())))
        elif isinstance(value, Known) and value.array.ndim == rank:
            back = np.argsort(order)
            array = np.ascontiguousarray(value.array.transpose(back))
            # The path itself is left to what the operator after it may take.
            hint = f"{value.hint}:moved" if value.hint else "constant"
            names.append(graph.constant(array, hint=hint))
        elif isinstance(value, Tensor) and (found := graph.transposed(value.name)) is not None:
            if found[1] != order:
                return None
            names.append(found[0])
        else:
            return None
    return names, order, joined(shapes)


def joined(shapes: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The shape that shapes broadcast to."""
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(
        next((dim for dim in dims if not (isinstance(dim, int) and dim == 1)), 1)
        for dims in zip(*padded, strict=True)
    )


def loose(graph: Graph, value: Value) -> Tensor:
    """A value by name, of a shape that broadcasts to its own."""
    if isinstance(value, Known):
        return Tensor(graph.constant(value.array, hint=value.hint or "constant"), value.shape)
    if isinstance(value, Pair):
        raise InteropError("complex numbers cannot be written in ONNX here")
    return value


def full(graph: Graph, value: Value, aval: Any) -> str:
    """The name of a value in the shape of its variable."""
    shape = tuple(aval.shape)
    # What is larger is broadcast when it runs.
    small = is_static(shape) and math.prod(shape) <= 1024
    if isinstance(value, Known) and value.shape != shape and small:
        value = Known(np.broadcast_to(value.array, shape), value.hint)
    tensor = loose(graph, value)
    same = len(tensor.shape) == len(shape) and all(
        a == b for a, b in zip(tensor.shape, shape, strict=True)
    )
    return tensor.name if same else graph.expand(tensor.name, shape)
