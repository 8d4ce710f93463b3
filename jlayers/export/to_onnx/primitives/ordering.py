"""Sorting and the largest elements."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from ..call import Call, Emitted, emits


def _comparable(call: Call, i: int, x: str) -> str:
    """An operand in a dtype whose order TopK knows: no bools, and no floats of 16 bits."""
    dtype = call.dtype(i)
    if dtype.kind == "b":
        return call.graph.cast(x, np.int32)
    if jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4:
        return call.graph.cast(x, np.float32)
    return x


@emits("top_k", "approx_top_k")
def top_k(call: Call) -> Emitted:
    axis = call.params.get("axis", call.params.get("reduction_dimension", -1))
    graph, k = call.graph, call.graph.shape([call.params["k"]])
    largest = int(call.params.get("is_max_k", True))
    given = call.arg(0)
    x = _comparable(call, 0, given)
    values, places = graph.ops("TopK", x, k, outputs=2, axis=axis, largest=largest)
    values = values if x == given else graph.cast(values, call.outs[0].dtype)
    return [values, graph.cast(places, call.outs[1].dtype)]


@emits("sort")
def sort(call: Call) -> Emitted:
    axis, keys, graph = call.params["dimension"], call.params["num_keys"], call.graph
    operands = call.args()
    size = call.op("Shape", operands[0], start=axis, end=axis + 1)
    # By the last key first: among equals, TopK keeps the order.
    for key in range(keys - 1, -1, -1):
        values = _comparable(call, key, operands[key])
        _, places = graph.ops("TopK", values, size, outputs=2, axis=axis, largest=0)
        operands = [call.op("GatherElements", x, places, axis=axis) for x in operands]
    return operands
