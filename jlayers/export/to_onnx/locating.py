"""Where a graph departs from the model: equation by equation, for one input."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from onnx import helper

from .call import full
from .converter import Converter
from .graph import Graph, entered
from .operators.marking import Marks
from .primitives.complexes import is_complex
from .runtime import differs, session_of
from .values import Known, Tensor, Value


def first_departure(run: Any, marks: Marks, params: Any, state: Any, x: Any) -> str | None:
    """The layer and the primitive whose result is the first to differ; None if none does.

    Args:
      run: ``run(params, state, x)``, the model with its marks.
    """
    program = jax.make_jaxpr(run)(params, state, x)
    graph = Graph()
    leaves = jax.tree.leaves((params, state))
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
    given: list[Value] = [Known(np.asarray(leaf)) for leaf in leaves]
    for array, var in zip(arrays, program.jaxpr.invars[len(given) :], strict=True):
        own = graph.add_input("x", array.shape, array.dtype)
        given.append(Tensor(entered(graph, own, array.dtype, var.aval.dtype), array.shape))
    seen: list[tuple[Any, list[Value]]] = []
    Converter(marks.operators, seen).run(program, given, graph)
    wanted = _outputs(graph, seen)
    model = helper.make_model(
        graph.proto("parts"), opset_imports=[helper.make_opsetid("", marks.opset)], ir_version=11
    )
    names = [value.name for value in graph.inputs]
    session = session_of(model)
    used = {value.name for value in session.get_inputs()}
    feed = {name: array for name, array in zip(names, arrays, strict=True) if name in used}
    found = dict(zip(wanted, session.run(list(wanted), feed), strict=True))
    exact = _evaluated(program, [*leaves, *arrays])
    for name, (equation, var) in wanted.items():
        if differs(np.asarray(exact[var]), found[name]):
            where = str(equation.source_info.name_stack) or "the model itself"
            return f"{where}, at {_called(equation)}"
    return None


def _called(equation: Any) -> str:
    name = equation.params.get("name")
    return f"{equation.primitive.name} {name}" if isinstance(name, str) else equation.primitive.name


def _outputs(graph: Graph, seen: list[tuple[Any, list[Value]]]) -> dict[str, tuple[Any, Any]]:
    """An output for each result of each equation."""
    wanted = {}
    for equation, values in seen:
        for var, value in zip(equation.outvars, values, strict=True):
            if isinstance(value, Tensor) and not is_complex(var.aval):
                name = full(graph, value, var.aval)
                own = graph.add_output(name, "part", var.aval.shape, var.aval.dtype)
                wanted[own] = (equation, var)
    return wanted


def _evaluated(program: Any, arguments: list[Any]) -> dict[Any, Any]:
    """What every variable of a program is."""
    jaxpr = getattr(program, "jaxpr", program)
    values = dict(zip(jaxpr.invars, map(jax.numpy.asarray, arguments), strict=True))
    values |= zip(jaxpr.constvars, getattr(program, "consts", ()), strict=True)
    for equation in jaxpr.eqns:
        given = [atom.val if hasattr(atom, "val") else values[atom] for atom in equation.invars]
        params = equation.primitive.get_bind_params(equation.params)
        made = equation.primitive.bind(*given, **params)
        results = made if equation.primitive.multiple_results else [made]
        values |= zip(equation.outvars, results, strict=True)
    return values
