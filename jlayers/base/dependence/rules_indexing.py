"""Rules for reading and writing at computed places: gather, scatter, dynamic slices.

How to read this file: each rule moves the dimensions of operand, indices and updates to where they
are in the result, so that ``meet`` can treat them as elementwise. A dimension that is indexed is
touched: which of its elements are read is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .combine import READS_PLACE, READS_SIZE, meet, mixed, sized, touch, unknown
from .domain import ROWS, STEPS, Axis, Value, has, plain, varies
from .equation import Equation, Rules

READS = "reads steps at computed places"
READS_ROWS = "reads rows of the batch at computed places"
WRITES = "writes steps at computed places"
WRITES_ROWS = "writes rows of the batch at computed places"


def gather(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Indices' dimensions are the result's batch dimensions, the operand's the others."""
    operand, indices = arguments
    shape, full = equation.results[0], equation.operands[0]
    numbers = equation.fixed("dimension_numbers")
    sizes = equation.pairs("slice_sizes")
    offsets = [int(d) for d in numbers.offset_dims]
    batch = [d for d in range(len(shape)) if d not in offsets]
    dropped = [int(d) for d in numbers.collapsed_slice_dims]
    paired = _pairs(numbers.operand_batching_dims, numbers.start_indices_batching_dims)
    kept = [d for d in range(len(full)) if d not in dropped and d not in paired]
    columns, counted = _columns(equation, indices, numbers.start_index_map)
    # A constant is read by its index as by any other: it differs from step to step.
    counted = {d: place for d, place in counted.items() if d in dropped and operand.window}
    paired |= counted
    axes: list[Axis] = [()] * len(shape)
    for d, place in paired.items():
        axes[batch[place]] = operand.axes[d]
    indexed = [d for d in dropped if d not in paired]
    for d, target in zip(kept, offsets, strict=True):
        if sizes[d] == full[d]:
            axes[target] = operand.axes[d]
        else:
            indexed.append(d)
            axes[target] = plain(sizes[d])
    operand = sized(touch(operand, indexed, equation, READS, READS_ROWS), indexed, equation)
    values = [operand._replace(axes=tuple(axes))]
    for d, value in columns:
        if d not in counted:
            value = touch(value, [len(value.axes) - 1], equation, READS, READS_ROWS)
            found: list[Axis] = [()] * len(shape)
            for target, axis in zip(batch, value.axes[:-1], strict=True):
                found[target] = axis
            values.append(value._replace(axes=tuple(found)))
    return [meet(values, shape, equation)]


def scatter(equation: Equation, arguments: list[Value]) -> list[Value]:
    """The mirror image of gather: updates are written into, or added to, the operand."""
    operand, indices, updates = arguments
    shape = equation.results[0]
    numbers = equation.fixed("dimension_numbers")
    windows = [int(d) for d in numbers.update_window_dims]
    inserted = {int(d) for d in numbers.inserted_window_dims}
    # The updates' dimensions that are those of the indices, in order.
    spread = [d for d in range(len(updates.axes)) if d not in windows]
    paired = _pairs(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims)
    kept = [d for d in range(len(shape)) if d not in inserted and d not in paired]
    columns, counted = _columns(equation, indices, numbers.scatter_dims_to_operand_dims)
    counted = {d: place for d, place in counted.items() if d in inserted}
    paired |= counted
    axes: list[Axis] = [()] * len(shape)
    for d, place in paired.items():
        axes[d] = updates.axes[spread[place]]
    written = inserted - set(paired)
    loose = set(range(len(updates.axes))) - {spread[place] for place in paired.values()}
    for d, source in zip(kept, windows, strict=True):
        if equation.operands[2][source] == shape[d]:
            axes[d] = updates.axes[source]
            loose.discard(source)
        else:
            written.add(d)
    updates = touch(updates, loose, equation, WRITES, WRITES_ROWS)._replace(axes=tuple(axes))
    values = []
    for d, value in columns:
        if d not in counted:
            alone = set(range(len(value.axes))) - set(paired.values())
            touched = touch(value, alone, equation, WRITES, WRITES_ROWS)
            found: list[Axis] = [()] * len(shape)
            for target, place in paired.items():
                found[target] = value.axes[place]
            values.append(touched._replace(axes=tuple(found)))
    return [_written(equation, operand, updates, values, written)]


def _pairs(dimensions: Iterable[int], places: Iterable[int]) -> dict[int, int]:
    """Batching dimensions of the operand, and the indices' like."""
    return {int(d): int(place) for d, place in zip(dimensions, places, strict=True)}


def _columns(
    equation: Equation, indices: Value, dimensions: Sequence[int]
) -> tuple[list[tuple[int, Value]], dict[int, int]]:
    """The indices of each dimension of the operand, and which of these count along one of theirs.

    Such a dimension is as good as a batching dimension, if it is counted to its end.
    """
    targets = [int(d) for d in dimensions]
    if len(indices.known.columns) == len(targets):
        columns = list(zip(targets, indices.known.columns, strict=True))
    elif len(targets) == 1:
        columns = [(targets[0], indices)]
    else:
        # One vector of several components; -1 names none of the dimensions.
        return [(-1, indices)], {}
    counted: dict[int, int] = {}
    full, lengths = equation.operands[0], equation.operands[1]
    for d, value in columns:
        place = value.known.counts
        if place is None or place in counted.values() or place == len(lengths) - 1:
            continue
        if lengths[place] == full[d]:
            counted[d] = place
    return columns, counted


def dynamic_slice(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Dimensions that are not cut stay; only indices of those that are count."""
    operand, starts = arguments[0], arguments[1:]
    sizes, full = equation.pairs("slice_sizes"), equation.operands[0]
    cut = [d for d, size in enumerate(sizes) if size != full[d]]
    if len(starts) != len(sizes):
        return unknown(equation, arguments)
    read = sized(touch(operand, cut, equation, READS, READS_ROWS), cut, equation)
    axes = tuple(
        plain(sizes[d], all(f.same for f in axis) and operand.constant) if d in cut else axis
        for d, axis in enumerate(read.axes)
    )
    values = [read._replace(axes=axes), *(starts[d] for d in cut)]
    return [meet(values, equation.results[0], equation)]


def dynamic_update_slice(equation: Equation, arguments: list[Value]) -> list[Value]:
    """As ``dynamic_slice``, for what is written."""
    operand, update, starts = arguments[0], arguments[1], arguments[2:]
    shape = equation.results[0]
    if len(starts) != len(shape):
        return unknown(equation, arguments)
    cut = {d for d, size in enumerate(equation.operands[1]) if size != shape[d]}
    axes = tuple(() if d in cut else axis for d, axis in enumerate(update.axes))
    update = touch(update, cut, equation, WRITES, WRITES_ROWS)._replace(axes=axes)
    return [_written(equation, operand, update, [starts[d] for d in cut], cut)]


def _written(
    equation: Equation, operand: Value, update: Value, indices: list[Value], written: set[int]
) -> Value:
    """The operand after an update whose dimensions are those of the operand."""
    shape = equation.results[0]
    if operand.window is None:
        # Some places of a constant are other than the rest now: nowhere the same, along these.
        axes = tuple(
            plain(shape[d]) if d in written else axis for d, axis in enumerate(operand.axes)
        )
        operand = operand._replace(axes=axes)
    result = meet([operand, update, *indices], shape, equation)
    if not written:
        return result
    if result.window is None:
        if any(varies(shape[d]) for d in written):
            result = result._replace(place=result.place or equation.cause(READS_SIZE))
        return result
    computed = [value for value in (update, *indices) if value.window is not None]
    for kind, reason in ((STEPS, WRITES), (ROWS, WRITES_ROWS)):
        if any(has(operand.axes[d], kind) for d in written):
            result = result._replace(place=result.place or equation.cause(READS_PLACE))
            if computed:
                result = mixed(result, kind, equation.cause(reason))
    return result


_SCATTERS = """
scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max
"""

RULES: Rules = {
    "gather": gather,
    **dict.fromkeys(_SCATTERS.split(), scatter),
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
}
