"""A graph of operators, as layouts look at it: which of an operator's values are arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from ..formats.graph import GraphArrays, Node

_SUMS = ("Add", "ADD", "BiasAdd")
_MOVES = (
    *("Slice", "Squeeze", "Unsqueeze", "Reshape", "Transpose"),
    *("STRIDED_SLICE", "SQUEEZE", "EXPAND_DIMS", "RESHAPE", "TRANSPOSE"),
)


class Constant(NamedTuple):
    """An array of the file, or what a transposition or a cast makes of one."""

    name: str
    array: np.ndarray


class Found(NamedTuple):
    """The arrays of an operator, or of several that are one layer here.

    Attributes:
      kind: of the layer, as the layouts call it.
      arrays: by our names.
      sources: the names in the file, by our names.
      part: which of several layers of one operator, such as ``"backward"``.
    """

    kind: str
    arrays: Mapping[str, np.ndarray]
    sources: Mapping[str, tuple[str, ...]]
    part: str = ""


class Graph:
    """The operators of a file, its arrays, and who uses which value.

    Attributes:
      nodes: in the order in which they run.
      done: those that are part of a layer that was found.
    """

    def __init__(self, arrays: GraphArrays) -> None:
        self._arrays = arrays
        self.nodes = arrays.nodes
        self.done: set[int] = set()
        self._made: dict[str, Constant] = {}
        self._users: dict[str, list[int]] = {}
        self._makers = {name: node for node in self.nodes for name in node.outputs}
        for i, node in enumerate(self.nodes):
            for name in node.inputs:
                self._users.setdefault(name, []).append(i)

    def constant(self, node: Node, number: int) -> Constant | None:
        """The array that is an input of a node, if it has one there."""
        name = node.inputs[number] if number < len(node.inputs) else ""
        if name in self._made:
            return self._made[name]
        return Constant(name, self._arrays[name]) if name in self._arrays else None

    def make(self, node: Node, constant: Constant, change: Callable[..., np.ndarray]) -> None:
        """What a node makes of an array is one too."""
        # A file may ask for what cannot be done; its array is then one that goes nowhere.
        with contextlib.suppress(ValueError, IndexError, TypeError):
            self._made[node.outputs[0]] = Constant(constant.name, change(constant.array))

    def maker(self, node: Node) -> Node | None:
        """The node whose output is the first input of this one."""
        return self._makers.get(node.inputs[0]) if node.inputs else None

    def _alone(self, node: Node) -> tuple[int, Node] | None:
        """The node that uses the output of a node, where it is the only one."""
        users = self._users.get(node.outputs[0], []) if node.outputs else []
        return (users[0], self.nodes[users[0]]) if len(users) == 1 else None

    def _numbers(self, node: Node) -> list[Constant]:
        """The inputs that are arrays of numbers, and not shapes or axes."""
        there = (self.constant(node, number) for number in range(len(node.inputs)))
        return [c for c in there if c and c.array.ndim and c.array.dtype.kind not in "biu"]

    def either(self, node: Node) -> Constant | None:
        """The one input of two that is an array of numbers, where the other is not constant."""
        there = [c for c in (self.constant(node, 0), self.constant(node, 1)) if c is not None]
        return there[0] if len(there) == 1 and self._numbers(node) else None

    def scaled(self, node: Node) -> Iterator[Found]:
        """What a multiplication by an array is, with the sum behind it if there is one."""
        scale = self.either(node)
        if scale is not None:
            size = scale.array.size
            bias = self.then_sum(node, size, through=("Mul", "MUL"))
            if bias or size > 1:
                yield found("affine", scale=scale, bias=bias)

    def then_sum(
        self, node: Node, features: int, *, through: tuple[str, ...] = ()
    ) -> Constant | None:
        """The bias that is added to what a node gives, an entry for each feature.

        Between the two, axes may be moved, and there may be operators of ``through``.
        """
        follower = self._alone(node)
        while follower and follower[1].operator in (*_MOVES, *through):
            if self._numbers(follower[1]):
                return None
            follower = self._alone(follower[1])
        if follower is None or follower[1].operator not in _SUMS:
            return None
        bias = self.either(follower[1])
        if bias is None or bias.array.size != features:
            return None
        self.done.add(follower[0])
        return bias

    def unexplained(self, taken: set[str]) -> list[str]:
        """Arrays of several numbers that no layer has: they may be weights, or constants."""
        return [
            name
            for name in self._arrays
            if name not in taken
            and (array := self._arrays[name]).size > 1
            # Integers are shapes, axes and indices in a graph.
            and array.dtype.kind not in "biu"
        ]


def found(kind: str, part: str = "", **constants: Constant | None) -> Found:
    """The arrays that are there."""
    there = {name: constant for name, constant in constants.items() if constant is not None}
    return Found(
        kind,
        {name: constant.array for name, constant in there.items()},
        {name: (constant.name,) for name, constant in there.items()},
        part,
    )


def changed(constant: Constant | None, change: Callable[..., np.ndarray]) -> Constant | None:
    return None if constant is None else Constant(constant.name, change(constant.array))


def as_float32(array: np.ndarray) -> np.ndarray:
    """What an operator computes with where the file keeps halves of it, to be smaller."""
    # Those of ml_dtypes, such as bfloat16, are of kind V.
    return array.astype(np.float32, copy=False) if array.dtype.kind in "fV" else array
