"""What the analysis knows of an intermediate value: its axes, and what it depends on.

How to read this file: every function is traced twice, at sizes that differ, and both programs are
walked together. So each size is a *pair* of numbers, one for each trace, and a pair of unequal
numbers depends on the sizes of the input. ``Value`` is what is known of one intermediate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

Pair = tuple[int, int]
Shape = tuple[Pair, ...]
Window = tuple[float, float]

ROWS = "rows"
STEPS = "steps"
PLAIN = "plain"

ONE: Pair = (1, 1)
OWN: Window = (0, 0)
ALL: Window = (-math.inf, math.inf)


class Factor(NamedTuple):
    """A part of a dimension: rows of the batch, steps, or neither.

    Attributes:
      kind: ``ROWS``, ``STEPS`` or ``PLAIN``.
      size: its length in each trace.
      same: for a constant, whether it is the same all along. Only such a constant may meet the
        steps without giving away a step's number.
    """

    kind: str
    size: Pair
    same: bool = False


# A dimension, from its slowest to its fastest factor; () is a dimension of length 1.
Axis = tuple[Factor, ...]


class Sizes(NamedTuple):
    """Rows and steps of the inputs in each trace."""

    rows: Pair
    steps: Pair


# Where it is asked whether an input is in a value, and not what becomes of its steps.
NO_SIZES = Sizes((-1, -1), (-1, -1))


class Cause(NamedTuple):
    """Where something happened: the equations from the outermost to the innermost, and why.

    Attributes:
      equations: of the first trace; empty for what no equation did.
      primitive: name of the innermost, or "".
      reason: in words, to follow "it".
    """

    equations: tuple[Any, ...]
    primitive: str
    reason: str


class Known(NamedTuple):
    """What is known of the numbers in an array of indices (see known.py).

    Attributes:
      number: what all of them are, in each trace.
      counts: the dimension along which they are 0, 1, 2, ...
      columns: the components of an index vector, which is its last dimension.
    """

    number: Pair | None = None
    counts: int | None = None
    columns: tuple[Value, ...] = ()


NOTHING = Known()


class Value(NamedTuple):
    """What is known of an intermediate value.

    Attributes:
      axes: its dimensions.
      window: None for a constant. Else index i of its steps depends on the input's steps from
        i + window[0] to i + window[1]; a value without steps depends on all of them, or is
        ``early``.
      hidden: (kind, loop): rows or steps that a surrounding loop walks over, which are in the
        value without being in its shape.
      loops: those whose iterations see different values of it, other than by what is hidden.
      early: has no steps, and depends on the first few alone, by number: no step i of the input
        with i > window[1].
      steps, rows, place: why a step depends on others, a row on others, the value on absolute
        positions or sizes; None if it does not.
      known: what is known of its numbers.
      given: whether an argument without steps, such as a key or a parameter, is in it.
    """

    axes: tuple[Axis, ...]
    window: Window | None = None
    hidden: frozenset[tuple[str, int]] = frozenset()
    loops: frozenset[int] = frozenset()
    early: bool = False
    steps: Cause | None = None
    rows: Cause | None = None
    place: Cause | None = None
    known: Known = NOTHING
    given: bool = False

    @property
    def constant(self) -> bool:
        """Whether nothing of the timed inputs is in it."""
        return self.window is None


def length(axis: Axis) -> Pair:
    """The length of a dimension in each trace."""
    first = second = 1
    for factor in axis:
        first *= factor.size[0]
        second *= factor.size[1]
    return first, second


def plain(size: Pair, same: bool = False) -> Axis:
    """A dimension that is neither rows nor steps."""
    return () if size == ONE else (Factor(PLAIN, size, same),)


def plain_axes(shape: Iterable[Pair], same: bool = False) -> tuple[Axis, ...]:
    """Dimensions that are neither rows nor steps."""
    return tuple(plain(size, same) for size in shape)


def has(axis: Axis, kind: str) -> bool:
    """Whether rows (steps) are in a dimension."""
    return any(factor.kind == kind for factor in axis)


def is_alone(axis: Axis, kind: str) -> bool:
    """Whether a dimension is rows (steps) and nothing else."""
    return len(axis) == 1 and axis[0].kind == kind


def varies(size: Pair) -> bool:
    """Whether a size depends on the sizes of the input."""
    return size[0] != size[1]


def tidy(axis: Iterable[Factor]) -> Axis:
    """The dimension without factors of length 1, and with plain neighbours as one."""
    factors: list[Factor] = []
    for factor in axis:
        if factor.kind == PLAIN and factor.size == ONE:
            continue
        last = factors[-1] if factors else None
        if last and last.kind == factor.kind == PLAIN and last.same == factor.same:
            size = last.size[0] * factor.size[0], last.size[1] * factor.size[1]
            factors[-1] = Factor(PLAIN, size, factor.same)
        else:
            factors.append(factor)
    return tuple(factors)


def forget(axis: Axis, same: bool = False) -> Axis:
    """The dimension as one plain factor."""
    return plain(length(axis), same)


def marks(axis: Axis) -> tuple[tuple[str, Pair, Pair], ...]:
    """Where rows and steps are in a dimension: kind, size, and how many elements are inside."""
    found = []
    inside = ONE
    for factor in reversed(axis):
        if factor.kind != PLAIN:
            found.append((factor.kind, factor.size, inside))
        inside = inside[0] * factor.size[0], inside[1] * factor.size[1]
    return tuple(found)


def same_along(constant: Axis, marked: Axis) -> bool:
    """Whether a constant's dimension is the same for all rows and steps of another's."""
    for _, size, inside in marks(marked):
        outside = inside[0] * size[0], inside[1] * size[1]
        start = ONE
        for factor in reversed(constant):
            end = start[0] * factor.size[0], start[1] * factor.size[1]
            # Divisible, and not only beyond each other: else its pattern runs across the steps.
            within = all(inside[i] % end[i] == 0 for i in (0, 1))
            beyond = all(start[i] % outside[i] == 0 for i in (0, 1))
            if not (factor.same or within or beyond):
                return False
            start = end
    return True


def blend(axes: list[Axis], size: Pair) -> Axis:
    """The dimension of what is computed elementwise from constants."""
    distinct = {axis for axis in axes if axis}
    if not distinct:
        return plain(size, True)
    if len(distinct) == 1:
        return distinct.pop()
    patterned = {axis for axis in distinct if not all(factor.same for factor in axis)}
    if len(patterned) == 1:
        return patterned.pop()
    return plain(size, not patterned)


def shift(window: Window, low: float, high: float) -> Window:
    """The window with its ends moved."""
    return window[0] + low, window[1] + high


def hull(windows: Iterable[Window | None]) -> Window | None:
    """The smallest window around windows; None if there are none."""
    known = [window for window in windows if window is not None]
    if not known:
        return None
    return min(window[0] for window in known), max(window[1] for window in known)


def fresh(shape: Shape, sizes: Sizes, lead: int = 2) -> Value:
    """A value from outside the program: its axes are known by their lengths in both traces.

    One that leads with the rows and the steps holds them. Another has no steps in it: it is a
    constant, the same for all rows and along other lengths that vary.
    """
    whole = ((Factor(ROWS, sizes.rows),), (Factor(STEPS, sizes.steps),))[-lead:]
    if shape[:lead] == (sizes.rows, sizes.steps)[-lead:]:
        return Value((*whole, *_rest(shape[lead:])), window=OWN)
    if lead == 2 and shape[:1] == (sizes.rows,) and varies(sizes.rows):
        return Value(((Factor(ROWS, sizes.rows, True),), *_rest(shape[1:])), given=True)
    return Value(_rest(shape), given=True)


def _rest(shape: Shape) -> tuple[Axis, ...]:
    return tuple(plain(size, varies(size)) for size in shape)
