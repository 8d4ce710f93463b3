"""Rules for what brings elements of a dimension together: reductions, cumulative ones, sorting.

How to read this file: a dimension that is reduced, sorted or transformed is touched; the others
stay. Cumulative operations along the steps keep their direction.
"""

from __future__ import annotations

import math

from .combine import meet, sized, touch, unknown
from .domain import STEPS, Axis, Value, is_alone, length, plain, plain_axes, shift
from .equation import Equation, Rule, Rules

_REDUCES = "reduces over time"
_REDUCES_ROWS = "reduces over the batch"
_IDEMPOTENT = frozenset({"reduce_max", "reduce_min", "reduce_and", "reduce_or"})


def reduce(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Sums and their kin over whole dimensions."""
    value, dimensions = arguments[0], [int(d) for d in equation.fixed("axes")]
    return [_reduced(value, dimensions, equation)]


def reduce_by_function(equation: Equation, arguments: list[Value]) -> list[Value]:
    """As many operands as initial values, which are scalars."""
    count = len(arguments) // 2
    dimensions = [int(d) for d in equation.fixed("dimensions")]
    value = meet(arguments[:count], equation.operands[0], equation)
    reduced = _reduced(value, dimensions, equation)
    result = meet([reduced, *arguments[count:]], equation.results[0], equation)
    return [result] * count


def _reduced(value: Value, dimensions: list[int], equation: Equation) -> Value:
    counted = dimensions
    if equation.name in _IDEMPOTENT:
        counted = [d for d in dimensions if not all(factor.same for factor in value.axes[d])]
    value = touch(value, dimensions, equation, _REDUCES, _REDUCES_ROWS)
    value = sized(value, counted, equation)
    axes = tuple(axis for d, axis in enumerate(value.axes) if d not in dimensions)
    return value._replace(axes=axes)


def cumulative(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Along the steps alone, a step depends on all before it, or after it if reversed."""
    value, d = arguments[0], int(equation.fixed("axis"))
    reverse = equation.fixed("reverse")
    axis = value.axes[d]
    if value.window is None:
        if reverse:
            value = sized(value, [d], equation)
        axes = (*value.axes[:d], plain(length(axis)), *value.axes[d + 1 :])
        return [value._replace(axes=axes)]
    if not is_alone(axis, STEPS):
        return [touch(value, [d], equation)]
    cause = equation.cause("accumulates over time")
    window = shift(value.window, 0, math.inf) if reverse else shift(value.window, -math.inf, 0)
    return [value._replace(window=window, steps=value.steps or cause)]


def sort(equation: Equation, arguments: list[Value]) -> list[Value]:
    """All operands are put into the order of the keys."""
    d = int(equation.fixed("dimension"))
    value = meet(arguments, equation.results[0], equation)
    value = sized(touch(value, [d], equation, "sorts along time", "sorts the batch"), [d], equation)
    if value.window is None:
        axes = (*value.axes[:d], plain(length(value.axes[d])), *value.axes[d + 1 :])
        value = value._replace(axes=axes)
    return [value] * len(equation.results)


def top_k(equation: Equation, arguments: list[Value]) -> list[Value]:
    """The largest along one dimension, and where they are."""
    value = arguments[0]
    name = "reduction_dimension" if equation.name == "approx_top_k" else "axis"
    d = int(equation.fixed(name)) % len(value.axes)
    value = sized(touch(value, [d], equation, "sorts along time", "sorts the batch"), [d], equation)
    axes = (*value.axes[:d], plain(equation.results[0][d]), *value.axes[d + 1 :])
    return [value._replace(axes=axes)] * len(equation.results)


def fft(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Transforms the last dimensions."""
    return _core(equation, arguments, len(equation.param("fft_lengths")[0]))


def matrices(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Decompositions and solutions: the last two dimensions are one matrix."""
    return _core(equation, arguments, 2)


def vectors(equation: Equation, arguments: list[Value]) -> list[Value]:
    """The last dimension is one vector."""
    return _core(equation, arguments, 1)


def householder_product(equation: Equation, arguments: list[Value]) -> list[Value]:
    """A matrix and a vector of scales, in front of which are the dimensions of a batch."""
    matrix, scales = arguments
    return _core(equation, [matrix, scales._replace(axes=(*scales.axes, ()))], 2)


def triangular_solve(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Columns (rows) of the right-hand side stay apart, if the matrix is a constant."""
    matrix, right = arguments
    if matrix.window is not None:
        return _core(equation, arguments, 2)
    rank = len(right.axes)
    d = rank - 2 if equation.fixed("left_side") else rank - 1
    right = sized(touch(right, [d], equation), [d], equation)
    if right.window is None:
        return _core(equation, arguments, 2)
    axes: tuple[Axis, ...] = (*matrix.axes[:-2], (), ())
    return [meet([matrix._replace(axes=axes), right], equation.results[0], equation)]


def _core(equation: Equation, arguments: list[Value], count: int) -> list[Value]:
    """Mixes the last ``count`` dimensions; those in front are a batch, as many in all operands."""
    ranks = {len(operand) for operand in equation.operands}
    if len(ranks) != 1 or min(ranks) < count:
        return unknown(equation, arguments)
    front = ranks.pop() - count
    shape = equation.results[0][:front]
    batch = []
    for value in arguments:
        inner = range(front, front + count)
        value = sized(touch(value, inner, equation), inner, equation)
        batch.append(value._replace(axes=value.axes[:front]))
    value = meet(batch, shape, equation)
    results = []
    for result in equation.results:
        if result[:front] != shape:
            return unknown(equation, arguments)
        results.append(value._replace(axes=(*value.axes, *plain_axes(result[front:]))))
    return results


_reductions: dict[str, Rule] = {
    f"reduce_{name}": reduce for name in ("sum", "prod", "max", "min", "and", "or", "xor")
}

_DECOMPOSITIONS = """
cholesky eig eigh hessenberg lu qr geqrf schur svd tridiagonal
"""

RULES: Rules = {
    **_reductions,
    "argmax": reduce,
    "argmin": reduce,
    "reduce": reduce_by_function,
    **{f"cum{name}": cumulative for name in ("sum", "prod", "max", "min", "logsumexp")},
    "sort": sort,
    "top_k": top_k,
    "approx_top_k": top_k,
    "fft": fft,
    **dict.fromkeys(_DECOMPOSITIONS.split(), matrices),
    "lu_pivots_to_permutation": vectors,
    "householder_product": householder_product,
    "triangular_solve": triangular_solve,
}
