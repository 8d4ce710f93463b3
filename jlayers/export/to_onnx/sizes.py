"""Symbolic sizes, such as ``2*b + floordiv(t, 2)``, as ONNX nodes that compute them.

``str`` of a symbolic size is what ``jax.export.symbolic_shape`` reads: that text is the interface.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from ...base.dependence import number, symbols_of
from ...base.errors import InteropError

Size = Any


class Source(NamedTuple):
    """An axis of ``factor * size + rest`` elements.

    Attributes:
      name, axis: of the input.
    """

    name: str
    axis: int
    factor: int = 1
    rest: int = 0


def source(name: str, axis: int, dim: Size) -> tuple[str, Source] | None:
    """A symbol and how an axis tells its size; None for sums of several, and what is rounded."""
    symbols = symbols_of([jax.ShapeDtypeStruct((dim,), np.float32)])
    if len(symbols) != 1:
        return None
    rest, *sizes = (number(dim, {symbols[0]: n}) for n in range(6))
    factor = sizes[0] - rest
    if not factor or any(size != factor * (i + 1) + rest for i, size in enumerate(sizes)):
        return None
    return symbols[0], Source(name, axis, factor, rest)


class Writer(Protocol):
    """What is needed of a graph."""

    @property
    def symbols(self) -> Mapping[str, Source]:
        """Where the sizes of names are found."""

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node."""

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Adds an array."""

    def ints(self, *values: int) -> str:
        """Adds a vector of int64."""


def is_int(dim: Size) -> bool:
    """Whether a size is a number."""
    return isinstance(dim, (int, np.integer))


def is_static(shape: tuple[Size, ...]) -> bool:
    """Whether all sizes of a shape are numbers."""
    return all(map(is_int, shape))


def evaluate(graph: Writer, dim: Size) -> str:
    """The name of the scalar int64 that a symbolic size has when the model runs."""
    text = str(dim).replace("^", "**")
    return _visit(graph, ast.parse(text, mode="eval").body, text)


def _visit(graph: Writer, node: ast.expr, text: str) -> str:
    if isinstance(node, ast.Constant):
        return graph.constant(node.value, np.int64)
    if isinstance(node, ast.Name):
        return _symbol(graph, node.id, text)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return graph.op("Neg", _visit(graph, node.operand, text))
    if isinstance(node, ast.BinOp):
        kind = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul", ast.Pow: "Pow"}[type(node.op)]
        return graph.op(kind, _visit(graph, node.left, text), _visit(graph, node.right, text))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        given = [_visit(graph, argument, text) for argument in node.args]
        match node.func.id:
            case "floordiv":
                # Div of integers rounds towards zero, Mod has the sign of the divisor.
                left = graph.op("Sub", given[0], graph.op("Mod", *given))
                return graph.op("Div", left, given[1])
            case "mod":
                return graph.op("Mod", *given)
            case "max":
                return graph.op("Max", *given)
            case "min":
                return graph.op("Min", *given)
    raise InteropError(f"the size {text!r} cannot be computed in ONNX")


def _symbol(graph: Writer, name: str, text: str) -> str:
    if name not in graph.symbols:
        raise InteropError(
            f"the size {name!r} is not the size of any input's axis",
            got=text,
            hint="an input must have an axis of this size alone, such as n, 2*n or n + 1",
        )
    found = graph.symbols[name]
    shape = graph.op("Shape", found.name, start=found.axis, end=found.axis + 1)
    size = graph.op("Squeeze", shape, graph.ints(0))
    if found.rest:
        size = graph.op("Sub", size, graph.constant(found.rest, np.int64))
    if found.factor != 1:
        size = graph.op("Div", size, graph.constant(found.factor, np.int64))
    return size
