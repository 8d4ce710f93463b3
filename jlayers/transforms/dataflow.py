"""A traced program as values and operations: who makes each value, who uses it, in which layer.

How to read this file: ``read`` goes through a jaxpr. Functions that are called once are read into;
of a loop, what its body is given and gives back are values of their own.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator
from typing import Any

from ..core.inlining import scanned

# They only place numbers elsewhere.
# fmt: off
MOVES = frozenset({
    "broadcast_in_dim", "concatenate", "copy", "dynamic_slice", "expand_dims", "gather",
    "optimization_barrier", "pad", "reshape", "rev", "sharding_constraint", "slice", "split",
    "squeeze", "transpose",
})
# fmt: on
# Of the casts that ``precision`` adds: ``to_bfloat16``.
SCOPE = "to_"
_RULED = re.compile(rf"\b{SCOPE}(b?float\d+)\b")


@dataclasses.dataclass(eq=False)
class Value:
    """An array of the program.

    Attributes:
      parameter: whether it is a parameter, or made of parameters alone by moves and casts.
      maker: None for what the program or a body is given.
      leaves: whether the program, or a body, gives it back.
    """

    dtype: Any
    shape: tuple[int, ...]
    parameter: bool = False
    maker: Operation | None = None
    users: list[Operation] = dataclasses.field(default_factory=list)
    leaves: bool = False


@dataclasses.dataclass(eq=False)
class Operation:
    """An equation.

    Attributes:
      path: of the layer that it belongs to.
      backward: whether it is one of the gradient's, recomputed ones included.
      times: how often it runs: the length of the loops around it.
      ruled: whether ``precision`` put it there.
      inputs: None for a number that is written in the program.
    """

    name: str
    params: dict[str, Any]
    path: str
    backward: bool
    times: int
    ruled: bool
    inputs: list[Value | None]
    outputs: list[Value]


@dataclasses.dataclass(frozen=True)
class _Place:
    scope: str
    times: int


class Program:
    """All operations of a jaxpr; its arguments with numbers in ``parameters`` are parameters."""

    def __init__(self, closed: Any, paths: Collection[str], parameters: Collection[int]):
        self.operations: list[Operation] = []
        # Sums over the steps of a loop: the layer, the dtype, how many steps.
        self.carried_sums: list[tuple[Operation, Value, int]] = []
        self._paths = frozenset(paths)
        given: list[Value | None] = [
            Value(var.aval.dtype, var.aval.shape, parameter=i in parameters)
            for i, var in enumerate(closed.jaxpr.invars)
        ]
        for result in self._read(closed.jaxpr, given, _Place("", 1)):
            _leave(result)

    def _read(self, jaxpr: Any, given: list[Value | None], place: _Place) -> list[Value | None]:
        known: dict[Any, Value | None] = dict(zip(jaxpr.invars, given, strict=True))
        known |= {var: Value(var.aval.dtype, var.aval.shape) for var in jaxpr.constvars}

        def value_of(var: Any) -> Value | None:
            return None if hasattr(var, "val") else known[var]

        for equation in jaxpr.eqns:
            inputs = [value_of(var) for var in equation.invars]
            known |= zip(equation.outvars, self._equation(equation, inputs, place), strict=True)
        return [value_of(var) for var in jaxpr.outvars]

    def _equation(
        self, equation: Any, inputs: list[Value | None], place: _Place
    ) -> list[Value | None]:
        name, params = equation.primitive.name, equation.params
        scope = f"{place.scope}/{equation.source_info.name_stack}"
        inner = [*_jaxprs(params)]
        sizes = [(len(one.invars), len(one.outvars)) for one in inner]
        # Of others the function is of single numbers, or of a step.
        calls = not name.startswith(("reduce", "scan", "scatter", "select_and", "sort", "while"))
        if calls and sizes == [(len(equation.invars), len(equation.outvars))]:
            return self._read(inner[0], inputs, _Place(scope, place.times))
        outputs = [Value(v.aval.dtype, v.aval.shape) for v in equation.outvars]
        path, backward = self._layer(scope), "transpose(" in scope
        ruled = _RULED.search(scope) is not None
        one = Operation(name, params, path, backward, place.times, ruled, inputs, outputs)
        self.operations.append(one)
        moves = name in MOVES or name == "convert_element_type"
        for value in outputs:
            value.maker = one
            value.parameter = moves and all(v is None or v.parameter for v in inputs)
        for given in inputs:
            if given is not None:
                given.users.append(one)
        if name in ("scan", "while", "cond"):
            length = params["length"] if name == "scan" else 1
            for body in inner:
                # Of a cond, the first argument says which branch.
                own = inputs[-len(body.invars) :] if body.invars else []
                begin = [
                    Value(v.aval.dtype, v.aval.shape, parameter=bool(w and w.parameter))
                    for v, w in zip(body.invars, own, strict=True)
                ]
                end = self._read(body, [*begin], _Place(scope, place.times * length))
                for result in end:
                    _leave(result)
                if name == "scan":
                    own, init, _ = scanned(equation, begin)
                    self._sums(one, begin[len(own) : len(own) + len(init)], end)
        return [*outputs]

    def _sums(self, loop: Operation, begin: list[Value], end: list[Value | None]) -> None:
        for before, after in zip(begin, end, strict=False):
            maker = after.maker if after is not None else None
            if maker is not None and maker.name in ("add", "add_any") and before in maker.inputs:
                self.carried_sums.append((maker, before, loop.params["length"]))

    def _layer(self, scope: str) -> str:
        """The path of a layer in a scope: ``transpose(jvp(head))/dense`` is in ``head/dense``."""
        path = ""
        for segment in scope.replace(")", "").split("/"):
            name = segment.rpartition("(")[2]
            longer = f"{path}/{name}" if path else name
            if longer in self._paths:
                path = longer
        return path


def _leave(value: Value | None) -> None:
    if value is not None:
        value.leaves = True


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for param in params.values():
        for entry in param if isinstance(param, tuple | list) else (param,):
            inner = getattr(entry, "jaxpr", entry)
            if hasattr(inner, "eqns"):
                yield inner
