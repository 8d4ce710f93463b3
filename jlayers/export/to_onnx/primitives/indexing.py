"""Reading at places that are computed: gather and dynamic slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..call import Call, emits
from ..sizes import is_int
from ..values import Known
from .arithmetic import where
from .shapes import count_up


@emits("gather")
def gather(call: Call) -> str:
    numbers, sizes = call.params["dimension_numbers"], call.params["slice_sizes"]
    mode = str(call.params["mode"]).rsplit(".", 1)[-1].upper()
    places = places_of(call, 1)
    limits = [call.shape(0)[axis] - sizes[axis] for axis in numbers.start_index_map]
    inside = ""
    if mode != "PROMISE_IN_BOUNDS":
        clipped = clip(call, places, limits)
        if mode == "FILL_OR_DROP":
            same = call.op("Equal", clipped, places)
            inside = all_of(call, same)
        places = clipped
    found = _take(call, places) or _look(call, places)
    if inside:
        batch = list(call.shape(1)[:-1])
        axes = [axis for axis in range(len(call.out.shape)) if axis not in numbers.offset_dims]
        new = placed(call.out.shape, axes, batch)
        inside = call.graph.reshape(inside, batch, new)
        found = where(call, inside, found, call.const(_fill(call)))
    return found


def _fill(call: Call) -> object:
    given, dtype = call.params.get("fill_value"), call.dtype(0)
    if given is not None:
        return given
    if dtype.kind in "iu":
        return np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max
    return True if dtype.kind == "b" else np.nan


def places_of(call: Call, i: int) -> str:
    """Indices as int64."""
    known = call.known(i)
    if known is not None:
        return call.graph.constant(np.ascontiguousarray(known), np.int64)
    return call.graph.cast(call.arg(i), np.int64)


def clip(call: Call, places: str, limits: Sequence[Any]) -> str:
    """Indices between 0 and the limits along the last axis."""
    return call.op("Max", call.op("Min", places, call.graph.shape(limits)), call.graph.ints(0))


def all_of(call: Call, flags: str) -> str:
    """Whether all bools along the last axis are true."""
    graph = call.graph
    least = call.op("ReduceMin", graph.cast(flags, np.int32), graph.ints(-1), keepdims=0)
    return graph.cast(least, bool)


def _take(call: Call, places: str) -> str | None:
    """By ``Gather``, or a ``Slice``, where one of them does it."""
    numbers, sizes, shape = (
        call.params["dimension_numbers"],
        call.params["slice_sizes"],
        call.shape(0),
    )
    if numbers.operand_batching_dims:
        return None
    batch = len(call.shape(1)) - 1
    graph, rank = call.graph, len(shape)
    if batch == 0:
        axes = list(numbers.start_index_map)
        if not axes:
            return None
        ends = call.op("Add", places, graph.shape([sizes[axis] for axis in axes]))
        found = call.op("Slice", call.arg(0), places, ends, graph.ints(*axes))
        rest = [axis for axis in range(rank) if axis not in axes and sizes[axis] != shape[axis]]
        found = graph.slice(found, [0] * len(rest), [sizes[axis] for axis in rest], rest)
        if numbers.collapsed_slice_dims:
            found = call.op("Squeeze", found, graph.ints(*numbers.collapsed_slice_dims))
        return found
    if len(numbers.start_index_map) != 1 or numbers.collapsed_slice_dims != numbers.start_index_map:
        return None
    (axis,) = numbers.start_index_map
    if any(sizes[i] != shape[i] for i in range(rank) if i != axis):
        return None
    one = call.op("Squeeze", places, graph.ints(batch))
    found = call.op("Gather", call.arg(0), one, axis=axis)
    offsets = {out: i for i, out in enumerate(numbers.offset_dims)}
    order, seen = [], 0
    for out in range(len(call.out.shape)):
        if out in offsets:
            i = offsets[out]
            order.append(i if i < axis else i + batch)
        else:
            order.append(axis + seen)
            seen += 1
    return graph.transpose(found, order)


def _look(call: Call, places: str) -> str:
    """By ``GatherND``, with the place of each element of the result."""
    numbers, sizes, shape = (
        call.params["dimension_numbers"],
        call.params["slice_sizes"],
        call.shape(0),
    )
    out, graph = list(call.out.shape), call.graph
    inner = [
        axis
        for axis in range(len(shape))
        if axis not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    ]
    offset_of = dict(zip(inner, numbers.offset_dims, strict=True))
    batch_axes = [axis for axis in range(len(out)) if axis not in numbers.offset_dims]
    batching = dict(
        zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    )
    tail = whole_axes(shape, sizes, numbers.start_index_map, offset_of, len(out))
    found = []
    for axis in range(len(shape) - tail):
        along = offset_of.get(axis)
        if axis in batching:
            along = batch_axes[batching[axis]]
        start = None
        if axis in numbers.start_index_map:
            start = component(
                call, places, numbers.start_index_map.index(axis), list(call.shape(1)[:-1])
            )
            start = graph.reshape(
                start, call.shape(1)[:-1], placed(out[: len(out) - tail], batch_axes, call.shape(1))
            )
        found.append(place(call, start, along, out[: len(out) - tail]))
    return call.op("GatherND", call.arg(0), stacked(call, found, out[: len(out) - tail]))


def whole_axes(
    shape: Sequence[Any],
    sizes: Sequence[Any],
    indexed: Sequence[int],
    axes: dict[int, int],
    rank: int,
) -> int:
    """How many last axes are taken whole and are the last ones of the result."""
    tail = 0
    while tail < len(shape):
        axis = len(shape) - 1 - tail
        if axis in indexed or sizes[axis] != shape[axis] or axes.get(axis) != rank - 1 - tail:
            break
        tail += 1
    # Something has to be indexed.
    return min(tail, len(shape) - 1)


def component(call: Call, places: str, i: int, batch: list[Any]) -> str:
    """One component of the indices."""
    graph = call.graph
    part = graph.slice(places, [i], [i + 1], [len(batch)])
    return call.op("Squeeze", part, graph.ints(len(batch)))


def placed(out: Sequence[Any], axes: Sequence[int], sizes: Sequence[Any]) -> list[Any]:
    new: list[Any] = [1] * len(out)
    for axis, size in zip(axes, sizes, strict=False):
        new[axis] = size
    return new


def place(call: Call, start: str | None, along: int | None, out: Sequence[Any]) -> str:
    """Indices of one axis, of a shape that broadcasts to ``out``."""
    graph = call.graph
    counted = None
    if along is not None and not (is_int(out[along]) and out[along] == 1):
        new: list[Any] = [1] * len(out)
        new[along] = out[along]
        if is_int(out[along]):
            counted = graph.constant(np.arange(out[along], dtype=np.int64).reshape(new))
        else:
            counted = count_up(call, out[along], np.int64, new)
    if start is None:
        return counted or graph.constant(np.zeros([1] * len(out), np.int64))
    return start if counted is None else call.op("Add", start, counted)


def stacked(call: Call, parts: Sequence[str], out: Sequence[Any]) -> str:
    """Indices of all axes side by side, in full."""
    graph = call.graph
    last = graph.ints(len(out))
    full = [call.op("Unsqueeze", graph.expand(part, out), last) for part in parts]
    return full[0] if len(full) == 1 else call.op("Concat", *full, axis=len(out))


def starts_of(call: Call, first: int, axes: Sequence[int], limits: Sequence[Any]) -> str:
    """The operands from ``first`` on that belong to some axes, as a vector within its limits."""
    graph = call.graph
    known = [call.values[first + axis] for axis in axes]
    if all(isinstance(value, Known) for value in known) and all(map(is_int, limits)):
        numbers = [int(value.array) for value in known]  # type: ignore[union-attr]
        return graph.ints(
            *(min(max(n, 0), int(limit)) for n, limit in zip(numbers, limits, strict=True))
        )
    zero = graph.ints(0)
    parts = [
        call.op("Unsqueeze", graph.cast(call.arg(first + axis), np.int64), zero) for axis in axes
    ]
    joined = parts[0] if len(parts) == 1 else call.op("Concat", *parts, axis=0)
    return clip(call, joined, limits)


@emits("dynamic_slice")
def dynamic_slice(call: Call) -> str:
    sizes, shape = call.params["slice_sizes"], call.shape(0)
    axes = [axis for axis in range(len(shape)) if sizes[axis] != shape[axis]]
    if not axes:
        return call.arg(0)
    starts = starts_of(call, 1, axes, [shape[axis] - sizes[axis] for axis in axes])
    ends = call.op("Add", starts, call.graph.shape([sizes[axis] for axis in axes]))
    return call.op("Slice", call.arg(0), starts, ends, call.graph.ints(*axes))


@emits("dynamic_update_slice")
def dynamic_update_slice(call: Call) -> str:
    shape, sizes, graph = call.shape(0), call.shape(1), call.graph
    axes = [axis for axis in range(len(shape)) if sizes[axis] != shape[axis]]
    if not axes:
        return call.arg(1)
    starts = starts_of(call, 2, axes, [shape[axis] - sizes[axis] for axis in axes])
    if len(axes) == 1:
        (axis,) = axes
        at = graph.ints(axis)
        x = call.arg(0)
        before = call.op("Slice", x, graph.ints(0), starts, at)
        resume = call.op("Add", starts, graph.shape([sizes[axis]]))
        after = call.op("Slice", x, resume, graph.shape([shape[axis]]), at)
        return call.op("Concat", before, call.arg(1), after, axis=axis)
    parts = []
    for axis in range(len(shape)):
        start = None
        if axis in axes:
            i = axes.index(axis)
            start = graph.slice(starts, [i], [i + 1], [0])
        parts.append(place(call, start, axis, sizes))
    return call.op("ScatterND", call.arg(0), stacked(call, parts, sizes), call.arg(1))
