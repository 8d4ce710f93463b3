"""From a jaxpr to ONNX: every equation by the emitter of its primitive.

How to read this file: ``Converter.run`` goes through the equations of a jaxpr, those alone that
its outputs need. ``_equation`` works out what does not depend on the inputs (``folding``), takes a
complex array apart (``primitives.complex``), and calls the emitter. Jaxprs inside equations are
run in the same graph, or in a graph of their own where ONNX has one (``primitives.control``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...base.errors import InteropError
from . import primitives  # noqa: F401 - fills the table of emitters
from .call import EMITTERS, Call, Emitted
from .folding import folded
from .graph import Graph
from .idioms import Idiom, find
from .narrow import emit_wider, is_narrow
from .primitives.complexes import emit_complex, is_complex
from .values import Known, Tensor, Value

# What writes a call of a layer as operators; None where it cannot.
Operator = Callable[[Call], Emitted | None]

_HINTS = {
    "random": "ONNX has no random numbers as JAX draws them: export without train=True and keys",
    "threefry": "ONNX has no random numbers as JAX draws them: export without train=True and keys",
    "callback": "a function that runs in Python cannot be in a file",
} | dict.fromkeys(
    ("lu", "cholesky", "triangular_solve", "svd", "eig", "qr", "householder", "schur", "hessen"),
    "decompositions can be exported of parameters alone, which are worked out beforehand",
)


class Converter:
    """Writes jaxprs to graphs.

    Args:
      operators: what writes the functions with these names (``operators.marking``).
      seen: gets the results of each equation of the outermost jaxpr.
    """

    def __init__(
        self,
        operators: Mapping[str, Operator] | None = None,
        seen: list[tuple[Any, list[Value]]] | None = None,
    ):
        self.operators: Mapping[str, Operator] = operators or {}
        self.seen = seen
        self.depth = 0

    def run(
        self, program: Any, arguments: Sequence[Value], graph: Graph, consts: Any = None
    ) -> list[Value]:
        """The outputs of a jaxpr, open or closed."""
        jaxpr = getattr(program, "jaxpr", program)
        consts = getattr(program, "consts", ()) if consts is None else consts
        values: dict[Any, Value] = dict(zip(jaxpr.invars, arguments, strict=True))
        values |= {
            var: const if isinstance(const, Value) else Known(_numpy(const))
            for var, const in zip(jaxpr.constvars, consts, strict=True)
        }

        def read(atom: Any) -> Value:
            return Known(_numpy(atom.val, atom.aval)) if hasattr(atom, "val") else values[atom]

        for equation, idiom in _needed(jaxpr):
            read_from = equation.invars if idiom is None else idiom.inputs
            given = [read(atom) for atom in read_from]
            self.depth += 1
            results = self._equation(equation, idiom, given, graph)
            self.depth -= 1
            if self.seen is not None and not self.depth:
                self.seen.append((equation, results))
            values |= zip(equation.outvars, results, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(
        self, equation: Any, idiom: Idiom | None, given: list[Value], graph: Graph
    ) -> list[Value]:
        name = equation.primitive.name
        avals = [atom.aval for atom in (equation.invars if idiom is None else idiom.inputs)]
        outs = [var.aval for var in equation.outvars]
        scope = str(equation.source_info.name_stack)
        before = graph.root.scope
        # Inside a function or a loop's body, names are those within it.
        graph.root.scope = scope if scope.startswith(before) else f"{before}/{scope}".rstrip("/")
        try:
            if idiom is None and (found := folded(equation, given)) is not None:
                return found
            call = Call(self, graph, name, equation.params, given, avals, outs)
            if idiom is not None:
                return listed(idiom.emit(call), outs)
            emitter = EMITTERS.get(name)
            if any(map(is_complex, (*avals, *outs))) and name not in _THROUGH:
                return listed(emit_complex(call, emitter), outs)
            if emitter is None:
                raise InteropError(
                    f"the primitive {name!r} has no form in ONNX here", hint=_hint(name)
                )
            if name not in _THROUGH and is_narrow(call):
                return listed(emit_wider(call, emitter), outs)
            return listed(emitter(call), outs)
        except InteropError as error:
            # The innermost equation says it.
            if not getattr(error, "_placed", False):
                error._placed = True  # type: ignore[attr-defined]
                error.add_note(f"in {graph.root.scope or 'the model'}, at {name}")
            raise
        finally:
            graph.root.scope = before


# Equations whose bodies are looked into, whatever their operands.
_CALLS = "jit pjit closed_call core_call remat2 checkpoint custom_jvp_call custom_vjp_call"
_MORE = "custom_vjp_call_jaxpr call_hi_primitive custom_linear_solve"
_OTHERS = f"{_MORE} scan while cond optimization_barrier"
_THROUGH = frozenset(f"{_CALLS} {_OTHERS}".split())


def listed(emitted: Emitted, outs: Sequence[Any]) -> list[Value]:
    """What an emitter returned, as a list of values."""
    if isinstance(emitted, (str, Value)):
        emitted = [emitted]
    return [
        Tensor(value, tuple(out.shape)) if isinstance(value, str) else value
        for value, out in zip(emitted, outs, strict=True)
    ]


def _needed(jaxpr: Any) -> list[tuple[Any, Idiom | None]]:
    """The equations that the outputs depend on, in order, each with the idiom that it ends."""
    idioms = find(jaxpr)
    live = {atom for atom in jaxpr.outvars if not hasattr(atom, "val")}
    needed = []
    for i in range(len(jaxpr.eqns) - 1, -1, -1):
        equation = jaxpr.eqns[i]
        if any(var in live for var in equation.outvars):
            idiom = idioms.get(i)
            needed.append((equation, idiom))
            read = equation.invars if idiom is None else idiom.inputs
            live.update(atom for atom in read if not hasattr(atom, "val"))
    return needed[::-1]


def _numpy(value: Any, aval: Any = None) -> np.ndarray:
    return np.asarray(value, None if aval is None else np.dtype(aval.dtype))


def _hint(name: str) -> str | None:
    return next((hint for part, hint in _HINTS.items() if part in name), None)
