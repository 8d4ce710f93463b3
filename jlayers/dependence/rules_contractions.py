"""Rule for products that sum over dimensions of both operands: ``dot_general``.

How to read this file: contracted dimensions are touched. The others are moved to where they are in
the result, batch dimensions first, then those of the left, then those of the right operand.
"""

from __future__ import annotations

from .combine import meet, sized, touch
from .domain import Axis, Value
from .equation import Equation
from .registry import Rules


def dot_general(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Steps that are free in both operands meet each other: they are at two places then."""
    left, right = arguments
    (contracted, batch) = equation.fixed("dimension_numbers")
    shape = equation.results[0]
    count = len(batch[0])
    sides = []
    offset = count
    for value, summed, shared in zip((left, right), contracted, batch, strict=True):
        summed = [int(d) for d in summed]
        free = [d for d in range(len(value.axes)) if d not in summed and d not in shared]
        axes: list[Axis] = [()] * len(shape)
        for target, d in enumerate(shared):
            axes[target] = value.axes[int(d)]
        for target, d in enumerate(free, offset):
            axes[target] = value.axes[d]
        offset += len(free)
        value = sized(touch(value, summed, equation, _SUMS, _SUMS_ROWS), summed, equation)
        sides.append(value._replace(axes=tuple(axes)))
    return [meet(sides, shape, equation)]


_SUMS = "sums over time"
_SUMS_ROWS = "sums over the batch"

RULES: Rules = {"dot_general": dot_general}
