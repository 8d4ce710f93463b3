"""Rules for sums of products and for windows that slide: ``dot_general``, convolutions, pooling.

How to read this file: ``slide`` says what a window does to one dimension; the rules for windows
say which dimensions have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .combine import READS_SIZE, extended, meet, sized, touch
from .domain import STEPS, Axis, Factor, Pair, Value, is_alone, plain, shift, varies
from .equation import Equation, Rules

_SUMS = "sums over time"
_SUMS_ROWS = "sums over the batch"
_SLIDES = "slides a window over time"
_SLIDES_ROWS = "slides a window over the batch"


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


class Geometry(NamedTuple):
    """A window along one dimension.

    Attributes:
      size: how many elements it takes.
      stride: from one window to the next.
      padding: (before, after), in each trace.
      inside, spacing: dilation of the input and of the window.
    """

    size: Pair
    stride: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    inside: int
    spacing: int

    def is_nothing(self) -> bool:
        """Whether it takes each element alone."""
        return self[:4] == ((1, 1), 1, ((0, 0), (0, 0)), 1)


def slide(value: Value, d: int, size: Pair, window: Geometry, equation: Equation) -> Value:
    """The value after a window over dimension d, which has then the given size."""
    if window.is_nothing():
        return value
    axis = value.axes[d]
    steady = not varies(window.size) and window.padding[0] == window.padding[1]
    if not steady:
        value = value._replace(place=value.place or equation.cause(READS_SIZE))
    result = plain(size)
    seen = value.window
    if seen is not None and is_alone(axis, STEPS) and steady:
        if window.stride == window.inside == 1:
            before, after = window.padding[0]
            value = extended(value, d, before > 0, after > 0, equation)
            reach = (window.size[0] - 1) * window.spacing - before
            seen = shift(seen, -before, reach)
            if seen != value.window:
                cause = equation.cause(_SLIDES)
                value = value._replace(window=seen, steps=value.steps or cause)
            result = (Factor(STEPS, size),)
        else:
            value = touch(value, [d], equation, "takes windows of steps at a stride")
    else:
        value = touch(value, [d], equation, _SLIDES, _SLIDES_ROWS)
    return value._replace(axes=(*value.axes[:d], result, *value.axes[d + 1 :]))


def _pair(padding: Sequence[int]) -> tuple[int, int]:
    return int(padding[0]), int(padding[1])


def conv(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Rows are kept apart by the batch dimension; windows are in the spatial ones."""
    left, right = arguments
    numbers = equation.fixed("dimension_numbers")
    groups = equation.fixed("batch_group_count")
    shape, kernel = equation.results[0], equation.operands[1]
    right = touch(right, range(len(kernel)), equation, "convolves with a kernel of the input")
    touched = [int(numbers.lhs_spec[1])] + ([int(numbers.lhs_spec[0])] if groups != 1 else [])
    left = touch(left, touched, equation)
    strides = equation.fixed("window_strides")
    inside, spacing = equation.fixed("lhs_dilation"), equation.fixed("rhs_dilation")
    padding = list(zip(*equation.param("padding"), strict=True))
    axes: list[Axis] = [()] * len(shape)
    for i, d in enumerate(numbers.lhs_spec[2:]):
        target = numbers.out_spec[2 + i]
        geometry = Geometry(
            kernel[numbers.rhs_spec[2 + i]],
            int(strides[i]),
            (_pair(padding[i][0]), _pair(padding[i][1])),
            int(inside[i]),
            int(spacing[i]),
        )
        left = slide(left, int(d), shape[target], geometry, equation)
        axes[target] = left.axes[int(d)]
    batch, features = int(numbers.out_spec[0]), int(numbers.out_spec[1])
    if groups == 1:
        axes[batch] = left.axes[int(numbers.lhs_spec[0])]
    else:
        axes[batch] = plain(shape[batch])
    axes[features] = plain(shape[features])
    return [meet([left._replace(axes=tuple(axes)), right._replace(axes=())], shape, equation)]


def windowed(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Reductions over windows. Along the steps alone, at every step, they are a range of steps."""
    count = len(arguments)
    if equation.name == "reduce_window":
        count //= 2
    value = meet(arguments[:count], equation.operands[0], equation)
    sizes = equation.pairs("window_dimensions")
    ones = (1,) * len(sizes)
    strides = tuple(equation.fixed("window_strides"))
    inside = tuple(equation.fixed("base_dilation") or ones)
    spacing = tuple(equation.fixed("window_dilation") or ones)
    for d, padding in enumerate(zip(*equation.param("padding"), strict=True)):
        first, second = map(_pair, padding)
        geometry = Geometry(sizes[d], strides[d], (first, second), inside[d], spacing[d])
        value = slide(value, d, equation.results[0][d], geometry, equation)
    results = meet([value, *arguments[count:]], equation.results[0], equation)
    return [results] * len(equation.results)


def pooled_derivative(equation: Equation, arguments: list[Value]) -> list[Value]:
    """A derivative of max pooling: dimensions with windows are touched, in both operands."""
    shape, windows = equation.results[0], equation.pairs("window_dimensions")
    wide = [
        d for d, size in enumerate(windows) if size != (1, 1) or equation.operands[0][d] != shape[d]
    ]
    values = []
    for value in arguments:
        value = touch(value, wide, equation, _SLIDES, _SLIDES_ROWS)
        axes = tuple(() if d in wide else axis for d, axis in enumerate(value.axes))
        values.append(value._replace(axes=axes))
    result = meet(values, shape, equation)
    axes = tuple(plain(shape[d]) if d in wide else axis for d, axis in enumerate(result.axes))
    return [result._replace(axes=axes)]


RULES: Rules = {
    "dot_general": dot_general,
    "select_and_gather_add": pooled_derivative,
    "select_and_scatter_add": pooled_derivative,
    "conv_general_dilated": conv,
    "reduce_window": windowed,
    "reduce_window_max": windowed,
    "reduce_window_min": windowed,
    "reduce_window_sum": windowed,
}
