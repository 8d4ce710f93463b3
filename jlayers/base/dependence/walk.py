"""Walks both traces of a function together, an equation at a time.

How to read this file: ``walk`` looks up each equation's rule in ``RULES`` and keeps the values of
the variables. What has no rule, or is in a form that its rule does not expect, is unknown: it
mixes steps and rows, and knows its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import (
    rules_contractions,
    rules_control,
    rules_elementwise,
    rules_indexing,
    rules_reductions,
    rules_structure,
)
from .combine import READS_SIZE, settle, unknown
from .constants import constant
from .domain import Cause, Sizes, Value
from .equation import Differs, Equation, Rules, constants, inner, is_literal
from .known import know

RULES: Rules = {
    **rules_elementwise.RULES,
    **rules_structure.RULES,
    **rules_indexing.RULES,
    **rules_reductions.RULES,
    **rules_contractions.RULES,
    **rules_control.RULES,
}

# What writes to memory is not in the values that are walked; reading it would look like a constant.
_NAMES = """
accum_grad_in_ref addupdate box_get box_set empty_ref free_ref freeze get new_box new_ref run_state
swap
"""
REFERENCES = frozenset(_NAMES.split())
# They have no results, and change no value.
_SILENT = frozenset({"debug_callback", "debug_print", "dce_sink", "shape_assertion"})

WRITES_MEMORY = "uses mutable arrays, which this analysis does not follow"
ANOTHER_PROGRAM = "is another program for another number of steps or rows"
ODD_FORM = "is in a form that is not known to this analysis"


def walk(
    programs: tuple[Any, Any],
    arguments: Sequence[Value],
    sizes: Sizes,
    enclosing: tuple[Any, ...],
    number: Callable[[], int],
) -> list[Value]:
    """The values of a program's results.

    Args:
      programs: the jaxpr of each trace.
      arguments: values of its operands.
      sizes: rows and steps of the inputs.
      enclosing: the equations that the programs are inside of.
      number: gives a new number for a loop.

    Raises:
      Differs: the programs are not the same but for their sizes, or use mutable arrays.
    """
    first, second = inner(programs[0]), inner(programs[1])
    # Variables of the first trace with their like in the second, so that the same wiring is seen.
    known: dict[Any, tuple[Value, Any]] = {}
    for mine, other, value in zip(first.invars, second.invars, arguments, strict=True):
        known[mine] = (value, other)
    held = constants(programs[0]), constants(programs[1])
    if len(held[0]) != len(held[1]):
        raise Differs(_another(first, second, enclosing))
    cause = Cause(enclosing, "", READS_SIZE)
    for mine, other, *arrays in zip(first.constvars, second.constvars, *held, strict=True):
        known[mine] = (constant(arrays[0], arrays[1], cause), other)

    def read(mine: Any, other: Any, cause: Cause) -> Value:
        if is_literal(mine) and is_literal(other):
            return constant(mine.val, other.val, cause)
        if is_literal(mine) or is_literal(other):
            raise Differs(cause._replace(reason=ANOTHER_PROGRAM))
        value, like = known[mine]
        if like is not other:
            raise Differs(cause._replace(reason=ANOTHER_PROGRAM))
        return value

    if len(first.eqns) != len(second.eqns):
        raise Differs(_another(first, second, enclosing))
    for one, two in zip(first.eqns, second.eqns, strict=True):
        cause = Cause((*enclosing, one), one.primitive.name, READS_SIZE)
        if one.primitive.name != two.primitive.name or len(one.invars) != len(two.invars):
            raise Differs(cause._replace(reason=ANOTHER_PROGRAM))
        if cause.primitive in REFERENCES or not (one.outvars or cause.primitive in _SILENT):
            raise Differs(cause._replace(reason=WRITES_MEMORY))
        operands = [read(*pair, cause) for pair in zip(one.invars, two.invars, strict=True)]
        results = results_of(one, two, operands, sizes, enclosing, number)
        for mine, other, value in zip(one.outvars, two.outvars, results, strict=True):
            known[mine] = (value, other)
    return [read(*pair, cause) for pair in zip(first.outvars, second.outvars, strict=True)]


def results_of(
    one: Any,
    two: Any,
    operands: list[Value],
    sizes: Sizes,
    enclosing: tuple[Any, ...],
    number: Callable[[], int],
) -> list[Value]:
    """The values of an equation's results; other arguments as of ``walk``."""
    equation = Equation(one, two, sizes, enclosing, walk, number)
    rule = RULES.get(equation.name, unknown)
    cause = equation.cause(READS_SIZE)
    try:
        results = rule(equation, operands)
        if equation.name not in rules_control.RULES:
            # Of random numbers the shape is a parameter.
            if equation.name not in rules_elementwise.RANDOM and not equation.has_equal_params():
                results = [value._replace(place=value.place or cause) for value in results]
            known = know(equation, operands)
            results = [
                value if value.known is known else value._replace(known=known) for value in results
            ]
        return [
            settle(value, shape, sizes, cause)
            for value, shape in zip(results, equation.results, strict=True)
        ]
    except Differs as difference:
        results = unknown(equation, operands, difference.cause or ANOTHER_PROGRAM)
    except Exception:
        # A parameter that another version of JAX lacks or writes otherwise: no reason to fail.
        results = unknown(equation, operands, ODD_FORM)
    return [
        settle(value, shape, sizes, cause)
        for value, shape in zip(results, equation.results, strict=True)
    ]


def _another(first: Any, second: Any, enclosing: tuple[Any, ...]) -> Cause:
    """The first equation that is not the same in both programs."""
    pairs = zip(first.eqns, second.eqns, strict=False)
    found = next((a for a, b in pairs if a.primitive.name != b.primitive.name), None)
    if found is None:
        shorter, longer = sorted((first.eqns, second.eqns), key=len)
        found = longer[len(shorter)] if len(shorter) < len(longer) else None
    if found is None:
        return Cause(enclosing, "", ANOTHER_PROGRAM)
    return Cause((*enclosing, found), found.primitive.name, ANOTHER_PROGRAM)
