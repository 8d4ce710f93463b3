"""Writing at places that are computed: the family of scatter, by ``ScatterND``."""

from __future__ import annotations

import jax
import numpy as np

from ..call import Call, emits, full
from ..values import Known, Tensor, Value
from .arithmetic import where
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
    if call.name == "scatter" and call.params.get("update_jaxpr") is not None:
        return _applied(call)
    return _scattered(call)


def _scattered(call: Call) -> str:
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


def _applied(call: Call) -> str:
    """A function of the elements at some places: ``x.at[places].apply(function)``."""
    graph, params = call.graph, call.params
    known, numbers = call.known(1), params["dimension_numbers"]
    points = set(numbers.scatter_dims_to_operand_dims) <= set(numbers.inserted_window_dims)
    rows = None if known is None else known.reshape(-1, known.shape[-1])
    once = points and rows is not None and len(np.unique(rows, axis=0)) == len(rows)
    if not (once or params["unique_indices"]):
        # As often as a place is there, JAX applies it.
        raise call.refuse(
            "a function of places that may be there twice", "x.at[i].set(function(x[i]))"
        )
    flags = [jax.ShapeDtypeStruct(call.shape(i), np.int32) for i in (0, 2)]
    marked = _scattered(
        Call(
            call.converter,
            graph,
            call.name,
            params | {"update_jaxpr": None},
            [Known(np.zeros((), np.int32)), call.values[1], Known(np.ones((), np.int32))],
            [flags[0], call.avals[1], flags[1]],
            [flags[0]],
        )
    )
    # The function is of two numbers, and every operation on numbers is one on arrays here.
    given: list[Value] = [Tensor(call.arg(0), ()), Known(np.zeros((), call.dtype(2)))]
    (new,) = call.converter.run(params["update_jaxpr"], given, graph, params["update_consts"])
    name = full(graph, new, jax.ShapeDtypeStruct((), call.out.dtype))
    return where(call, graph.cast(marked, bool), name, call.arg(0))
