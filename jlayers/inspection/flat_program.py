"""What a function computes, as one flat list of operations, with jitted functions inlined.

How to read this file: ``program_of`` traces a function to a ``Program``; ``run_operation`` computes
one of its operations. Values are named by their numbers, so that the programs of one function for
two sizes can be read side by side.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax

# Jitted functions are read into; a function with a gradient of its own stays one operation.
_REMAT = ("remat2", "checkpoint")
_INLINED = ("jit", "pjit", "closed_call", "core_call", *_REMAT)


# Compared by identity: its value may be an array.
@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """A value that is part of the program."""

    value: Any


# A value by its number, or a constant.
Atom: TypeAlias = int | Constant


class Operation(NamedTuple):
    """One primitive operation.

    Attributes:
      primitive, params: of JAX.
      inputs, outputs: what it reads, and the numbers of what it makes.
      specs: of the inputs.
      made: of the outputs.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[Atom, ...]
    outputs: tuple[int, ...]
    specs: tuple[jax.ShapeDtypeStruct, ...]
    made: tuple[jax.ShapeDtypeStruct, ...]


class Program(NamedTuple):
    """A function for one set of input specs.

    Attributes:
      inputs: how many: they are the values 0, 1, ..., in the order of the leaves.
      operations: in order.
      outputs: in the order of the leaves.
      treedef: of the output.
      remat: whether ``jax.checkpoint`` is in it, which is read into as well.
    """

    inputs: int
    operations: list[Operation]
    outputs: tuple[Atom, ...]
    treedef: Any
    remat: bool


def program_of(function: Callable[..., Any], *specs: Any) -> Program:
    """The program of ``function(*specs)``; nothing is computed."""
    closed, out = jax.make_jaxpr(function, return_shape=True)(*specs)
    numbers = itertools.count()
    operations: list[Operation] = []
    inputs: list[Atom] = [next(numbers) for _ in closed.jaxpr.invars]
    outputs = _read(closed.jaxpr, closed.consts, inputs, operations, numbers)
    remat = _rematerialises(closed.jaxpr)
    return Program(len(inputs), operations, tuple(outputs), jax.tree.structure(out), remat)


def _rematerialises(jaxpr: Any) -> bool:
    return any(
        equation.primitive.name in _REMAT or _rematerialises(_inner(equation))
        for equation in jaxpr.eqns
        if equation.primitive.name in _INLINED
    )


def _inner(equation: Any) -> Any:
    """The jaxpr of an inlined function, closed or open."""
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return getattr(inner, "jaxpr", inner)


def _read(
    jaxpr: Any,
    consts: Any,
    given: list[Atom],
    operations: list[Operation],
    numbers: itertools.count[int],
) -> list[Atom]:
    """Appends the operations of a jaxpr; its outputs."""
    atoms: dict[Any, Atom] = dict(zip(jaxpr.invars, given, strict=True))
    atoms |= {var: Constant(value) for var, value in zip(jaxpr.constvars, consts, strict=True)}

    def atom(var: Any) -> Atom:
        return Constant(var.val) if hasattr(var, "val") else atoms[var]

    for equation in jaxpr.eqns:
        inputs = [atom(var) for var in equation.invars]
        if equation.primitive.name in _INLINED:
            inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
            own = getattr(inner, "consts", ())
            made = _read(_inner(equation), own, inputs, operations, numbers)
        else:
            made = [next(numbers) for _ in equation.outvars]
            operations.append(
                Operation(
                    equation.primitive,
                    equation.params,
                    tuple(inputs),
                    tuple(made),  # type: ignore[arg-type]
                    tuple(map(_spec, equation.invars)),
                    tuple(map(_spec, equation.outvars)),
                )
            )
        atoms |= zip(equation.outvars, made, strict=True)
    return [atom(var) for var in jaxpr.outvars]


def _spec(var: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype)


def run_operation(operation: Operation, inputs: list[Any]) -> list[Any]:
    """The outputs of an operation, which is differentiated as JAX differentiates it."""
    params = operation.primitive.get_bind_params(operation.params)
    made = operation.primitive.bind(*inputs, **params)
    return list(made) if operation.primitive.multiple_results else [made]
