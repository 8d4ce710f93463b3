"""How the children of a layer are joined, read from the program of its body.

How to read this file: each child is replaced by a call with a name, so that the program of the
layer has one operation for each call. ``wiring`` follows which of them a value comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ...base.layer import Layer
from ...base.specs import placeholders, specs_of
from ...base.tracing import trace
from ...base.types import Key, Params, PyTree, State

_MARK = "jlayers_drawn_"
# The input of the layer, among the sources of a value; call i is i.
INPUT = -1
Sources = frozenset[int]


class Call(NamedTuple):
    """A call of a child.

    Attributes:
      name: of the child.
      x: the specs of its input.
      sources: the calls, and ``INPUT``, from which its input is made.
    """

    name: str
    x: PyTree
    sources: Sources


class Wiring(NamedTuple):
    """The calls in order, and from which of them the output is made."""

    calls: tuple[Call, ...]
    out: Sources


def wiring(layer: Layer, x: PyTree) -> Wiring | None:
    """The calls of the children; None where one is inside a loop or another inner program."""
    found = trace(layer, x)
    made: list[tuple[str, PyTree]] = []
    children = {name: _marked(child, name, made) for name, child in layer.children.items()}
    marked = layer.rebuild(children)

    def run(params: Params, state: State, key: jax.Array, x: PyTree) -> PyTree:
        made.clear()
        return marked._apply(params, state, x, key=key, train=False)[0]

    key = jax.eval_shape(lambda: jax.random.key(0))
    jaxpr: Any = jax.make_jaxpr(run)(found.params, found.state, key, x).jaxpr
    sources: dict[Any, Sources] = {}
    leaves = len(jax.tree.leaves(x))
    for var in jaxpr.invars[len(jaxpr.invars) - leaves :]:
        sources[var] = frozenset((INPUT,))

    def of(variables: list[Any]) -> Sources:
        # A literal is made from nothing, and has no place in a dict.
        known = (sources.get(v, frozenset()) for v in variables if not hasattr(v, "val"))
        return frozenset().union(*known)

    calls: list[Call] = []
    for equation in jaxpr.eqns:
        given = of(equation.invars)
        if str(equation.params.get("name", "")).startswith(_MARK):
            given, own = frozenset((len(calls),)), given
            calls.append(Call(*made[int(equation.params["name"].removeprefix(_MARK))], own))
        sources.update(dict.fromkeys(equation.outvars, given))
    return Wiring(tuple(calls), of(jaxpr.outvars)) if len(calls) == len(made) else None


def _marked(child: Layer, name: str, made: list[tuple[str, PyTree]]) -> Layer:
    """A child that is one call in the program, of the shapes that it has."""

    def mark(apply: Callable[..., Any]) -> Callable[..., Any]:
        def marked(params: Params, state: State, x: PyTree, *, key: Key, train: bool) -> Any:
            leaves, treedef = jax.tree.flatten(x)
            out = specs_of(trace(child, specs_of(x)).out)

            def run(*leaves: Any) -> PyTree:
                return placeholders(out)

            run.__name__ = f"{_MARK}{len(made)}"
            made.append((name, specs_of(jax.tree.unflatten(treedef, leaves))))
            return jax.jit(run)(*leaves), state

        return marked

    return child._replace(_apply=mark(child._apply), _apply_to_array=mark(child._apply_to_array))
