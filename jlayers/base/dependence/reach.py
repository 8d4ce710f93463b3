"""Which results of an equation, or of a program, depend on which of its operands.

A function may return, from one call or one loop, values that have nothing to do with each other:
so calls, branches and loops are looked into, by the rules of the walk.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from .combine import MEETS_STEPS
from .domain import ALL, NO_SIZES, Cause, Value, plain_axes
from .equation import Differs, inner, shapes
from .rules_control import RULES
from .walk import results_of, walk


def reached(equation: Any, marked: Sequence[bool]) -> list[bool]:
    """For each result of an equation, whether a marked operand is in it."""
    if not any(marked) or equation.primitive.name not in RULES:
        return [any(marked)] * len(equation.outvars)
    cause = Cause((equation,), equation.primitive.name, MEETS_STEPS)
    values = _values(equation.invars, marked, cause)
    # The same program twice: sizes do not matter here.
    results = results_of(equation, equation, values, NO_SIZES, (), itertools.count().__next__)
    return [value.window is not None for value in results]


def results_reached(program: Any, marked: Sequence[bool]) -> list[bool]:
    """For each result of a program, whether a marked argument is in it; True if it is not known."""
    values = _values(inner(program).invars, marked, Cause((), "", MEETS_STEPS))
    try:
        results = walk((program, program), values, NO_SIZES, (), itertools.count().__next__)
    except Differs:
        return [True] * len(inner(program).outvars)
    return [value.window is not None for value in results]


def _values(variables: Sequence[Any], marked: Sequence[bool], cause: Cause) -> list[Value]:
    return [
        Value(plain_axes(shape), ALL if mark else None, steps=cause, rows=cause, place=cause)
        for shape, mark in zip(shapes(variables, variables), marked, strict=True)
    ]
