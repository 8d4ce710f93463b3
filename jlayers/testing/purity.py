"""Whether two traces of a function are one program.

What a layer keeps in Python from call to call shows here, at the price of a trace: an argument, a
result or a constant of the second program differs from the first's. To compile and run both would
show no more and cost seconds a layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from .trees import numbers

# A function that a program holds by reference is printed with its address.
_ADDRESS = re.compile(r"0x[0-9a-f]+")


def same_program(a: Any, b: Any) -> bool:
    """Whether the jaxprs are equal to the letter, and so are the constants they hold.

    Functions that a program holds by reference, as ``custom_jvp`` does, are the same where they are
    one object.
    """
    return str(a) == str(b) and _same_constants(a, b)


def same_traces(a: Any, b: Any) -> bool:
    """``same_program`` for two traces of one function: new objects at other addresses are alike."""
    texts = (_ADDRESS.sub("", str(jaxpr)) for jaxpr in (a, b))
    return next(texts) == next(texts) and _same_constants(a, b)


def _same_constants(a: Any, b: Any) -> bool:
    first, second = list(_constants(a)), list(_constants(b))
    return len(first) == len(second) and all(
        x.dtype == y.dtype and np.array_equal(numbers(x), numbers(y), equal_nan=True)
        for x, y in zip(first, second, strict=True)
    )


def _constants(jaxpr: Any) -> Iterator[Any]:
    """Arrays that a jaxpr holds, those of the jaxprs within it included."""
    yield from (c for c in getattr(jaxpr, "consts", ()) if hasattr(c, "dtype"))
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        for variable in equation.invars:
            # A literal. The text gives small ones' values and of others the shape alone.
            if getattr(getattr(variable, "val", None), "ndim", 0):
                yield variable.val
        for inner in _within(equation):
            yield from _constants(inner)


def equations(jaxpr: Any) -> Iterator[Any]:
    """The equations of a jaxpr and of those within it; not those that only hold others."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        inner = list(_within(equation))
        if not inner:
            yield equation
        for each in inner:
            yield from equations(each)


def _within(equation: Any) -> Iterator[Any]:
    for parameter in equation.params.values():
        for each in parameter if isinstance(parameter, tuple | list) else [parameter]:
            if hasattr(getattr(each, "jaxpr", each), "eqns"):
                yield each
