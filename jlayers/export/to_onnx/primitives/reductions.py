"""Reductions and cumulative ones."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..call import Call, emits
from ..graph import Graph

_KINDS = {
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
    "reduce_and": "ReduceMin",
    "reduce_or": "ReduceMax",
}


@emits(*_KINDS)
def reduce(call: Call) -> str:
    axes = call.params["axes"]
    if not axes:
        return call.arg(0)
    graph = call.graph
    x, dtype = call.arg(0), call.dtype(0)
    # Runtimes have no kernels for bools.
    if dtype.kind != "b":
        return graph.reduce(_KINDS[call.name], x, axes)
    found = graph.reduce(_KINDS[call.name], graph.cast(x, np.int32), axes)
    return graph.cast(found, call.out.dtype)


@emits("argmax", "argmin")
def arg_reduce(call: Call) -> str:
    (axis,) = call.params["axes"]
    kind = "ArgMax" if call.name == "argmax" else "ArgMin"
    x = call.arg(0)
    if call.dtype(0).kind == "b":
        x = call.graph.cast(x, np.int32)
    return call.graph.cast(call.op(kind, x, axis=axis, keepdims=0), call.params["index_dtype"])


@emits("cumsum")
def cumsum(call: Call) -> str:
    axis = call.graph.constant(call.params["axis"], np.int64)
    return call.op("CumSum", call.arg(0), axis, reverse=int(call.params["reverse"]))


@emits("cummax", "cummin", "cumprod", "cumlogsumexp")
def cumulative(call: Call) -> str:
    """As a ``Scan`` along the axis."""
    axis, reverse, graph = call.params["axis"], int(call.params["reverse"]), call.graph
    x, shape = call.arg(0), list(call.shape(0))
    rest = [dim for i, dim in enumerate(shape) if i != axis]
    dtype = call.dtype(0)
    kind = {"cummax": "Max", "cummin": "Min", "cumprod": "Mul"}.get(call.name)
    first: object = 1
    if call.name != "cumprod":
        lowest, highest = extremes(dtype)
        first = highest if call.name == "cummin" else lowest
    start = graph.expand(graph.constant(first, dtype), rest)
    body = Graph(graph)
    total = body.add_input("total", rest, dtype)
    new = body.add_input("new", rest, dtype)
    if kind is None:
        top = body.op("Max", total, new)
        finite = body.op("Max", top, graph.constant(finfo(dtype).min, dtype))
        parts = [body.op("Exp", body.op("Sub", part, finite)) for part in (total, new)]
        result = body.op("Add", finite, body.op("Log", body.op("Add", *parts)))
    else:
        result = body.op(kind, total, new)
    body.add_output(result, "total", rest, dtype)
    body.add_output(result, "part", rest, dtype)
    return graph.ops(
        "Scan",
        start,
        x,
        outputs=2,
        shared=False,
        body=body.proto("cumulative"),
        num_scan_inputs=1,
        scan_input_axes=[axis],
        scan_output_axes=[axis],
        scan_input_directions=[reverse],
        scan_output_directions=[reverse],
    )[1]


def finfo(dtype: Any) -> Any:
    """That of floats, bfloat16 too."""
    return jnp.finfo(dtype)  # type: ignore[no-untyped-call]


def extremes(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """The lowest and the highest value of a dtype."""
    if dtype.kind == "b":
        return False, True
    # NumPy does not take bfloat16 for a float.
    if jnp.issubdtype(dtype, jnp.floating):
        return -np.inf, np.inf
    return np.iinfo(dtype).min, np.iinfo(dtype).max
