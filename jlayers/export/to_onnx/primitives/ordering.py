"""Sorting and the largest elements."""

from __future__ import annotations

import numpy as np

from ..call import Call, Emitted, emits


@emits("top_k", "approx_top_k")
def top_k(call: Call) -> Emitted:
    axis = call.params.get("axis", call.params.get("reduction_dimension", -1))
    k = call.graph.shape([call.params["k"]])
    largest = int(call.params.get("is_max_k", True))
    values, places = call.graph.ops("TopK", call.arg(0), k, outputs=2, axis=axis, largest=largest)
    return [values, call.graph.cast(places, call.outs[1].dtype)]


@emits("sort")
def sort(call: Call) -> Emitted:
    axis, keys, graph = call.params["dimension"], call.params["num_keys"], call.graph
    operands = call.args()
    size = call.op("Shape", operands[0], start=axis, end=axis + 1)
    # By the last key first: among equals, TopK keeps the order.
    for key in range(keys - 1, -1, -1):
        values = operands[key]
        if call.dtype(key).kind == "b" or call.dtype(key).itemsize < 4:
            values = graph.cast(values, np.int32)
        _, places = graph.ops("TopK", values, size, outputs=2, axis=axis, largest=0)
        operands = [call.op("GatherElements", x, places, axis=axis) for x in operands]
    return operands
