"""Rules for what moves, splits, joins and cuts dimensions.

How to read this file: one rule a primitive, in the order of ``RULES`` at the end. Reading and
writing at computed places is in ``rules_indexing.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .combine import READS_SIZE, extended, meet, mixed, sized, touch, unknown
from .domain import (
    ALL,
    ONE,
    PLAIN,
    ROWS,
    STEPS,
    Axis,
    Factor,
    Pair,
    Value,
    forget,
    has,
    is_alone,
    length,
    plain,
    plain_axes,
    shift,
    tidy,
    varies,
)
from .equation import Equation, Rules

SHIFTS = "shifts the steps"
JOINS = "joins steps at places that depend on their number"
TEARS = "takes the steps apart by their number"
CUTS_ROWS = "selects rows of the batch"


def broadcast_in_dim(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Operand dimensions go where ``broadcast_dimensions`` says; others are the same all along."""
    if len(arguments) != 1:
        return unknown(equation, arguments)
    value, shape = arguments[0], equation.results[0]
    axes = list(plain_axes(shape, same=True))
    for d, target in enumerate(equation.fixed("broadcast_dimensions")):
        if value.axes[d]:
            axes[target] = value.axes[d]
    return [value._replace(axes=tuple(axes))]


def transpose(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Dimensions in another order."""
    value = arguments[0]
    return [value._replace(axes=tuple(value.axes[d] for d in equation.fixed("permutation")))]


def squeeze(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Dimensions of length 1 go. One that is longer in the other trace may not."""
    value = arguments[0]
    gone = {int(d) for d in equation.fixed("dimensions")}
    if any(equation.operands[0][d] != ONE for d in gone):
        return unknown(equation, arguments)
    return [value._replace(axes=tuple(a for d, a in enumerate(value.axes) if d not in gone))]


def reshape(equation: Equation, arguments: list[Value]) -> list[Value]:
    """All factors in a row are cut again; plain ones may be split, rows and steps may not."""
    if len(arguments) != 1:
        return unknown(equation, arguments)
    value, order = arguments[0], equation.fixed("dimensions")
    if order is not None:
        value = value._replace(axes=tuple(value.axes[d] for d in order))
    axes = _cut(value.axes, equation.results[0])
    if axes is not None:
        return [value._replace(axes=axes)]
    if value.window is not None:
        return unknown(equation, arguments, TEARS)
    same = all(factor.same for axis in value.axes for factor in axis)
    if not same:
        value = value._replace(place=value.place or equation.cause(READS_SIZE))
    return [value._replace(axes=plain_axes(equation.results[0], same))]


def rev(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Reversed steps see each other, since a step's number from the end is another one."""
    value, dimensions = arguments[0], equation.fixed("dimensions")
    patterned = [d for d in dimensions if not all(factor.same for factor in value.axes[d])]
    return [sized(touch(value, dimensions, equation, "reverses the steps"), patterned, equation)]


def tile(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Each dimension repeated: a slower factor that is the same all along."""
    value = arguments[0]
    axes = []
    for d, (axis, count) in enumerate(zip(value.axes, equation.pairs("reps"), strict=True)):
        if count != ONE and value.window is not None:
            # Else the dimension would be longer than the steps.
            value = touch(value, [d], equation, "repeats the steps")
            axis = forget(axis) if _marked(axis) else axis
        axes.append(tidy([Factor(PLAIN, count, True), *axis]))
    return [value._replace(axes=tuple(axes))]


def concatenate(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Along the steps, each piece moves by the length of those in front."""
    d, shape = equation.fixed("dimension"), equation.results[0]
    stepwise = any(v.window is not None and has(v.axes[d], STEPS) for v in arguments)
    axis = _steps(shape[d]) if stepwise else plain(shape[d])
    pieces, offset = [], (0, 0)
    for value in arguments:
        size = length(value.axes[d])
        end = offset[0] + size[0], offset[1] + size[1]
        if value.window is not None:
            if not is_alone(value.axes[d], STEPS) or varies(offset):
                value = touch(value, [d], equation, JOINS)
            else:
                value = extended(value, d, offset[0] > 0, end != shape[d], equation)
                value = _moved(value, -offset[0], equation)
            if has(value.axes[d], ROWS):
                value = mixed(value, ROWS, equation.cause("joins rows of the batch"))
        if varies(offset) or (varies(size) and value.window is None):
            value = value._replace(place=value.place or equation.cause(READS_SIZE))
        offset = end
        # The dimension itself is put in below: while pieces meet it counts as one element, or as
        # the steps if it has them, so that steps at another dimension are noticed.
        kept = axis if value.window is not None and has(value.axes[d], STEPS) else ()
        pieces.append(value._replace(axes=_with(value.axes, d, kept)))
    others = _with(shape, d, shape[d] if stepwise else ONE)
    value = meet(pieces, others, equation)
    return [value._replace(axes=_with(value.axes, d, axis))]


def pad(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Along the steps, moves by the padding in front; negative padding crops."""
    value, filling = arguments
    shape = equation.results[0]
    axes = list(value.axes)
    first, second = equation.param("padding_config")
    padded = []
    for d, (a, b) in enumerate(zip(first, second, strict=True)):
        (low, high, within), (low_, high_, within_) = (map(int, p) for p in (a, b))
        if (low, high, within) == (low_, high_, within_) == (0, 0, 0):
            continue
        padded.append(d)
        if value.window is None:
            axes[d] = plain(shape[d])
            continue
        moved = is_alone(axes[d], STEPS) and low == low_ and high == high_ and not within | within_
        if moved:
            value = extended(value, d, low > 0, high > 0, equation)
            value = _moved(value, -low, equation)
            axes[d] = _steps(shape[d])
        else:
            value = touch(value, [d], equation)
            axes[d] = plain(shape[d])
            if low != low_:
                value = value._replace(place=value.place or equation.cause(READS_SIZE))
    value = sized(value, padded, equation)
    alone = value._replace(axes=tuple(axes))
    joined = meet([alone, filling], shape, equation)
    if filling.window is not None:
        joined = touch(joined, padded, equation)
    return [joined]


def slice_(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Steps from a constant to the end less a constant are the steps, shifted."""
    starts, limits = equation.pairs("start_indices"), equation.pairs("limit_indices")
    strides = equation.fixed("strides") or (1,) * len(starts)
    value = arguments[0]
    shape = equation.operands[0]
    for d, (start, limit, stride) in enumerate(zip(starts, limits, strides, strict=True)):
        if (start, limit, stride) != ((0, 0), shape[d], 1):
            value = cut(value, d, start, limit, int(stride), equation)
    return [value]


def split(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Slices, one after another."""
    d, start, pieces = equation.fixed("axis"), (0, 0), []
    for size in equation.pairs("sizes"):
        limit = start[0] + size[0], start[1] + size[1]
        pieces.append(cut(arguments[0], d, start, limit, 1, equation))
        start = limit
    return pieces


def cut(value: Value, d: int, start: Pair, limit: Pair, stride: int, equation: Equation) -> Value:
    """The elements of dimension d from ``start`` to before ``limit``."""
    axis = value.axes[d]
    size = length(axis)
    result = _count(start[0], limit[0], stride), _count(start[1], limit[1], stride)
    left = size[0] - limit[0], size[1] - limit[1]
    window = value.window
    if window is None:
        same = all(factor.same for factor in axis)
        if varies(start) and not same:
            value = value._replace(place=value.place or equation.cause(READS_SIZE))
        return value._replace(axes=_with(value.axes, d, plain(result, same)))
    if varies(start):
        value = value._replace(place=value.place or equation.cause(READS_SIZE))
    elif is_alone(axis, STEPS):
        if stride == 1 and not varies(left):
            value = _moved(value, start[0], equation)
            return value._replace(axes=_with(value.axes, d, _steps(result)))
        if not varies(limit):
            # Seen from step t >= 0, the input's step s has the number s - t <= s.
            last = limit[0] - 1 + window[1]
            cause = equation.cause("reads the first steps by number")
            return value._replace(
                axes=_with(value.axes, d, plain(result)),
                window=(ALL[0], last),
                early=last < ALL[1],
                steps=value.steps or cause,
                place=value.place or cause,
            )
    value = touch(value, [d], equation, TEARS, CUTS_ROWS)
    return value._replace(axes=_with(value.axes, d, plain(result)))


def stack(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Values of one shape along a new dimension."""
    d, shape = int(equation.fixed("axis")), equation.results[0]
    others = shape[:d] + shape[d + 1 :]
    value = meet(arguments, others, equation)
    return [value._replace(axes=(*value.axes[:d], plain(shape[d]), *value.axes[d:]))]


def unstack(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Values along a dimension, which goes."""
    value, d = arguments[0], int(equation.fixed("axis"))
    value = touch(value, [d], equation, TEARS, CUTS_ROWS)
    axes = value.axes[:d] + value.axes[d + 1 :]
    return [value._replace(axes=axes)] * len(equation.results)


def _cut(axes: Sequence[Axis], shape: Sequence[Pair]) -> tuple[Axis, ...] | None:
    """The factors of ``axes`` as dimensions of another shape; None if rows or steps are torn."""
    waiting = [factor for axis in axes for factor in axis][::-1]
    result = []
    for size in shape:
        factors: list[Factor] = []
        while (left := _divide(size, length(tuple(factors)))) != ONE:
            if left is None or not waiting:
                return None
            factor = waiting.pop()
            if _divide(left, factor.size) is None:
                rest = _divide(factor.size, left)
                if factor.kind != PLAIN or rest is None:
                    return None
                waiting.append(factor._replace(size=rest))
                factor = factor._replace(size=left)
            factors.append(factor)
        result.append(tidy(factors))
    return None if waiting else tuple(result)


def _divide(size: Pair, by: Pair) -> Pair | None:
    if 0 in by or size[0] % by[0] or size[1] % by[1]:
        return None
    return size[0] // by[0], size[1] // by[1]


def _count(start: int, limit: int, stride: int) -> int:
    return max(0, math.ceil((limit - start) / stride))


def _steps(size: Pair) -> Axis:
    return (Factor(STEPS, size),)


def _marked(axis: Axis) -> bool:
    return has(axis, STEPS) or has(axis, ROWS)


def _moved(value: Value, offset: int, equation: Equation) -> Value:
    """The value, whose step i is the step i + offset of before."""
    if value.window is None or not offset or value.window == ALL:
        return value
    window = shift(value.window, offset, offset)
    return value._replace(window=window, steps=value.steps or equation.cause(SHIFTS))


def _with(items: tuple[Any, ...], d: int, item: Any) -> tuple[Any, ...]:
    return (*items[:d], item, *items[d + 1 :])


RULES: Rules = {
    "broadcast_in_dim": broadcast_in_dim,
    "transpose": transpose,
    "squeeze": squeeze,
    "reshape": reshape,
    "rev": rev,
    "tile": tile,
    "concatenate": concatenate,
    "pad": pad,
    "slice": slice_,
    "split": split,
    "stack": stack,
    "unstack": unstack,
}
