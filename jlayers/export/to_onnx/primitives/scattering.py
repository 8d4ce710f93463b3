"""Writing at places that are computed: the family of scatter, by ``ScatterND``."""

from __future__ import annotations

import numpy as np

from ..call import Call, emits
from .indexing import all_of, clip, component, place, placed, places_of, stacked, whole_axes

_REDUCTIONS = {
    "scatter": "none",
    "scatter-add": "add",
    "scatter_add": "add",
    "scatter-sub": "add",
    "scatter_sub": "add",
    "scatter-mul": "mul",
    "scatter_mul": "mul",
    "scatter-min": "min",
    "scatter_min": "min",
    "scatter-max": "max",
    "scatter_max": "max",
}


@emits(*_REDUCTIONS)
def scatter(call: Call) -> str:
    numbers, graph = call.params["dimension_numbers"], call.graph
    shape, updates = list(call.shape(0)), list(call.shape(2))
    indexed = list(numbers.scatter_dims_to_operand_dims)
    window = [
        axis
        for axis in range(len(shape))
        if axis not in (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    ]
    axis_of = dict(zip(window, numbers.update_window_dims, strict=True))
    sizes = [updates[axis_of[axis]] if axis in axis_of else 1 for axis in range(len(shape))]
    batch_axes = [i for i in range(len(updates)) if i not in numbers.update_window_dims]
    batching = dict(
        zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True)
    )
    batch = list(call.shape(1)[:-1])
    places = places_of(call, 1)
    mode = str(call.params["mode"]).rsplit(".", 1)[-1].upper()
    spare = None
    inside = ""
    if mode != "PROMISE_IN_BOUNDS" and indexed:
        clipped = clip(call, places, [shape[axis] - sizes[axis] for axis in indexed])
        if mode == "FILL_OR_DROP":
            # What is dropped goes to a row that is cut off at the end.
            spare = indexed[0]
            inside = all_of(call, call.op("Equal", clipped, places))
        places = clipped
    tail = whole_axes(shape, sizes, indexed, axis_of, len(updates))
    head = updates[: len(updates) - tail]
    parts = []
    for axis in range(len(shape) - tail):
        along = batch_axes[batching[axis]] if axis in batching else axis_of.get(axis)
        start = None
        if axis in indexed:
            start = component(call, places, indexed.index(axis), batch)
            start = graph.reshape(start, batch, placed(head, batch_axes, batch))
        part = place(call, start, along, head)
        if axis == spare:
            shown = graph.reshape(inside, batch, placed(head, batch_axes, batch))
            part = call.op("Where", shown, part, graph.size(shape[axis]))
        parts.append(part)
    x, update = call.arg(0), call.arg(2)
    if call.name in ("scatter-sub", "scatter_sub"):
        update = call.op("Neg", update)
    if spare is not None:
        pads = np.zeros((2, len(shape)), np.int64)
        pads[1, spare] = 1
        x = call.op("Pad", x, graph.ints(*pads.ravel().tolist()))
    found = call.op(
        "ScatterND", x, stacked(call, parts, head), update, reduction=_REDUCTIONS[call.name]
    )
    return found if spare is None else graph.slice(found, [0], [shape[spare]], [spare])
