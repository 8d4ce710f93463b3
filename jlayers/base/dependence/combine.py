"""How values meet: what every rule for a primitive is made of.

How to read this file: ``union`` collects what operands depend on, ``meet`` is the rule for
everything elementwise, ``touch`` says that a dimension is mixed, ``unknown`` gives up, and
``settle`` restores what must hold of every value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .domain import (
    ALL,
    ONE,
    PLAIN,
    ROWS,
    STEPS,
    Axis,
    Cause,
    Pair,
    Shape,
    Sizes,
    Value,
    blend,
    has,
    hull,
    length,
    marks,
    plain_axes,
    same_along,
    tidy,
    varies,
)
from .equation import Equation

READS_PLACE = "reads the absolute position"
READS_SIZE = "depends on the number of steps or rows"
REPLACES = "replaces the first or last steps, by their number"
MEETS_STEPS = "combines each step with other steps"
MEETS_ROWS = "combines each row of the batch with other rows"
LOSES_STEPS = "gives one result for all steps"
LOSES_ROWS = "gives one result for all rows of the batch"
NOT_KNOWN = "is not known to this analysis"


def union(values: Sequence[Value], cause: Cause, axes: tuple[Axis, ...] = ()) -> Value:
    """A value of the given dimensions that depends on everything that ``values`` depend on."""
    hidden: frozenset[tuple[str, int]] = frozenset()
    loops: frozenset[int] = frozenset()
    steps = rows = place = None
    for value in values:
        hidden |= value.hidden
        loops |= value.loops
        steps = steps or value.steps
        rows = rows or value.rows
        place = place or value.place
    if hidden and any(loop in loops for _, loop in hidden):
        place = place or cause._replace(reason=READS_PLACE)
    window = hull(value.window for value in values)
    early = all(value.early for value in values if value.window is not None)
    given = any(value.given for value in values)
    early = early and window is not None
    return Value(axes, window, hidden, loops, early, steps, rows, place, given=given)


def meet(values: Sequence[Value], shape: Shape, equation: Equation) -> Value:
    """What is computed elementwise: operands have the result's rank, or no dimensions.

    A dimension of length 1 is repeated, so that a broadcast needs no equation of its own.
    """
    values = [value if value.axes else value._replace(axes=((),) * len(shape)) for value in values]
    dependent = [value for value in values if value.window is not None]
    result = union(values, equation.cause(READS_PLACE))
    if not dependent:
        blended = (blend([value.axes[d] for value in values], shape[d]) for d in range(len(shape)))
        return result._replace(axes=tuple(blended))
    for kind in (STEPS, ROWS):
        if len({_position(value, kind) for value in dependent} - {None}) > 1:
            result = mixed(result, kind, equation.cause(_MEETS[kind]))
    axes = []
    for d, size in enumerate(shape):
        candidates = [value.axes[d] for value in dependent if value.axes[d]]
        chosen = next((axis for axis in candidates if marks(axis)), None)
        if chosen is None:
            axes.append(plain_axes([size])[0])
            continue
        axes.append(chosen)
        if result.place is None and not all(
            same_along(value.axes[d], chosen) for value in values if value.window is None
        ):
            result = result._replace(place=equation.cause(READS_PLACE))
    return result._replace(axes=tuple(axes))


def mixed(value: Value, kind: str, cause: Cause) -> Value:
    """The value, of which every step (row) depends on all steps (rows)."""
    if value.window is None:
        return value
    if kind == ROWS:
        return value._replace(rows=value.rows or cause)
    if value.window == ALL:
        return value
    return value._replace(window=ALL, steps=value.steps or cause)


def touch(
    value: Value,
    dimensions: Iterable[int],
    equation: Equation,
    steps: str = MEETS_STEPS,
    rows: str = MEETS_ROWS,
) -> Value:
    """The value, of which elements along some dimensions depend on each other; axes stay."""
    if value.window is None:
        return value
    for d in dimensions:
        if has(value.axes[d], STEPS):
            value = mixed(value, STEPS, equation.cause(steps))
        if has(value.axes[d], ROWS):
            value = mixed(value, ROWS, equation.cause(rows))
    return value


def sized(value: Value, dimensions: Iterable[int], equation: Equation) -> Value:
    """The value, if elements along dimensions of a constant are counted or selected.

    That gives another constant for another length.
    """
    if value.window is not None:
        return value
    if any(varies(length(value.axes[d])) for d in dimensions):
        return value._replace(place=value.place or equation.cause(READS_SIZE))
    return value


def extended(value: Value, d: int, before: bool, after: bool, equation: Equation) -> Value:
    """The value, if something else is put before (after) its steps.

    As long as the window of what is put there reaches beyond the first (last) step of the input,
    no step that depends on its own step alone can meet it. Else it replaces a step: after
    a crop, zeros in front replace the first step, by its number.
    """
    if value.window is None:
        return value
    missing = equation.sizes.steps[0] - length(value.axes[d])[0]
    if (before and value.window[0] > 0) or (after and value.window[1] < missing):
        return value._replace(place=value.place or equation.cause(REPLACES))
    return value


def unknown(
    equation: Equation, arguments: Sequence[Value], reason: str | Cause = NOT_KNOWN
) -> list[Value]:
    """Results of which nothing good can be said."""
    cause = reason if isinstance(reason, Cause) else equation.cause(reason)
    base = union(arguments, cause)
    if base.window is None:
        shapes = [*equation.operands, *equation.results]
        if any(varies(size) for shape in shapes for size in shape):
            base = base._replace(place=base.place or cause)
    else:
        base = base._replace(
            window=ALL,
            steps=base.steps or cause,
            rows=base.rows or cause,
            place=base.place or cause,
        )
    return [base._replace(axes=plain_axes(shape)) for shape in equation.results]


def settle(value: Value, shape: Shape, sizes: Sizes, cause: Cause) -> Value:
    """The value with what must hold of it.

    At most one dimension holds all rows, and at most one the steps, which are as many as in the
    input but for a constant; what depends on the input without them has mixed them.

    Raises:
      ValueError: the factors do not multiply to the shape, a mistake of a rule.
    """
    if tuple(length(axis) for axis in value.axes) != shape:
        raise ValueError(f"{cause.primitive}: {value.axes} for the shape {shape}")
    if value.window is None:
        return value
    missing_steps = sizes.steps[1] - sizes.steps[0]
    seen = {kind: sum(1 for hidden, _ in value.hidden if hidden == kind) for kind in (ROWS, STEPS)}
    kept = []
    changed = False
    for axis in value.axes:
        factors = []
        for factor in axis:
            if factor.kind != PLAIN:
                whole = (
                    factor.size == sizes.rows
                    if factor.kind == ROWS
                    else factor.size[1] - factor.size[0] == missing_steps
                )
                seen[factor.kind] += 1
                if seen[factor.kind] > 1 or not whole:
                    value = mixed(value, factor.kind, cause._replace(reason=_MEETS[factor.kind]))
                    if seen[factor.kind] > 1 or factor.kind == ROWS:
                        factor = factor._replace(kind=PLAIN)
                        seen[factor.kind] = 1
                        changed = True
            if factor.kind == PLAIN and factor.same:
                factor = factor._replace(same=False)
                changed = True
            factors.append(factor)
        kept.append(tidy(factors))
    if changed:
        value = value._replace(axes=tuple(kept))
    if not seen[ROWS]:
        value = mixed(value, ROWS, cause._replace(reason=LOSES_ROWS))
    if not seen[STEPS] and not value.early:
        value = mixed(value, STEPS, cause._replace(reason=LOSES_STEPS))
    if value.place is None and any(
        factor.kind == PLAIN and varies(factor.size) for axis in value.axes for factor in axis
    ):
        value = value._replace(place=cause._replace(reason=READS_SIZE))
    return value


_MEETS = {STEPS: MEETS_STEPS, ROWS: MEETS_ROWS}


def _position(value: Value, kind: str) -> tuple[str, int, Pair] | None:
    for d, axis in enumerate(value.axes):
        for found, _, inside in marks(axis):
            if found == kind:
                return ("dimension", d, inside)
    for found, loop in value.hidden:
        if found == kind:
            return ("loop", loop, ONE)
    return None
