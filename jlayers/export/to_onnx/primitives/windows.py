"""Reductions of windows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..call import Call, emits, full
from ..sizes import is_int
from ..values import Tensor
from .reductions import extremes
from .shapes import interior, pad_edges


@emits("reduce_window_max", "reduce_window_min", "reduce_window_sum")
def reduce_window(call: Call) -> str:
    dtype = call.dtype(0)
    kind = call.name.rsplit("_", 1)[-1]
    if dtype in (np.float32, np.float64) and (found := _pooled(call, kind)) is not None:
        return found
    low, high = extremes(dtype)
    first = {"max": low, "min": high, "sum": 0}[kind]
    name = {"max": "Max", "min": "Min", "sum": "Add"}[kind]
    return _by_slices(call, call.const(first), lambda x, y: call.op(name, x, y))


@emits("reduce_window")
def reduce_window_by(call: Call) -> str:
    """With a function of the user's."""
    if len(call.values) != 2:
        raise call.refuse("several operands")
    spec = call.avals[1]
    consts = call.params["consts"]

    def combine(x: str, y: str) -> str:
        values = [Tensor(name, ()) for name in (x, y)]
        # The function is of two numbers, and every operation on numbers is one on arrays here.
        (found,) = call.converter.run(call.params["jaxpr"], values, call.graph, consts)
        return full(call.graph, found, spec)

    return _by_slices(call, call.arg(1), combine)


def _settings(call: Call) -> tuple[list[int], list[int], list[Any], list[int], list[int]]:
    params, rank = call.params, len(call.shape(0))
    return (
        list(params["window_dimensions"]),
        list(params["window_strides"]),
        list(params["padding"]),
        list(params.get("base_dilation") or [1] * rank),
        list(params.get("window_dilation") or [1] * rank),
    )


def _by_slices(call: Call, first: str, combine: Callable[[str, str], str]) -> str:
    """One strided slice for each place in the window."""
    window, strides, padding, base, dilation = _settings(call)
    graph, out = call.graph, call.out.shape
    x = interior(call, call.arg(0), call.shape(0), [n - 1 for n in base], first)
    x = pad_edges(call, x, padding, first)
    axes = [axis for axis in range(len(window)) if window[axis] != 1 or strides[axis] != 1]
    found = None
    for place in itertools.product(*(range(window[axis]) for axis in axes)):
        starts = [n * dilation[axis] for n, axis in zip(place, axes, strict=True)]
        ends = [
            start + (out[axis] - 1) * strides[axis] + 1
            for start, axis in zip(starts, axes, strict=True)
        ]
        part = graph.slice(x, starts, ends, axes, [strides[axis] for axis in axes])
        found = part if found is None else combine(found, part)
    return found or x


def _pooled(call: Call, kind: str) -> str | None:
    """By ``MaxPool``, or a ``Conv`` with ones; None for more than three axes of windows."""
    window, strides, padding, base, dilation = _settings(call)
    graph, shape, rank = call.graph, call.shape(0), len(window)
    spatial = [
        axis
        for axis in range(rank)
        if (window[axis], strides[axis], base[axis]) != (1, 1, 1) or tuple(padding[axis]) != (0, 0)
    ]
    if not 1 <= len(spatial) <= 3:
        return None
    value = call.const(0 if kind == "sum" else -np.inf)
    x = call.arg(0)
    if kind == "min":
        x = call.op("Neg", x)
    x = interior(call, x, shape, [n - 1 for n in base], value)
    size = [(n - 1) * step + 1 for n, step in zip(shape, base, strict=True)]
    fits = all(is_int(n) and 0 <= n < window[axis] for axis in spatial for n in padding[axis])
    if not fits:
        x = pad_edges(call, x, padding, value)
        size = [n + low + high for n, (low, high) in zip(size, padding, strict=True)]
    others = [axis for axis in range(rank) if axis not in spatial]
    order = [*others, *spatial]
    x = graph.transpose(x, order)
    moved = [size[axis] for axis in order]
    inner = [size[axis] for axis in spatial]
    if len(others) == 2:
        lead = [size[axis] for axis in others]
    else:
        count: Any = 1
        for axis in others:
            count = count * size[axis]
        lead = [count, 1]
    x = graph.reshape(x, moved, [*lead, *inner])
    settings = {
        "kernel_shape": [window[axis] for axis in spatial],
        "strides": [strides[axis] for axis in spatial],
        "dilations": [dilation[axis] for axis in spatial],
        "pads": [padding[axis][side] if fits else 0 for side in (0, 1) for axis in spatial],
    }
    if kind == "sum":
        channels = lead[1]
        if not is_int(channels):
            merged = [lead[0] * lead[1], 1]
            x = graph.reshape(x, [*lead, *inner], [*merged, *inner])
            lead, channels = merged, 1
        ones = np.ones([channels, 1, *settings["kernel_shape"]], call.dtype(0))
        x = call.op("Conv", x, graph.constant(ones), group=channels, **settings)
    else:
        x = call.op("MaxPool", x, **settings)
        if _masked(call):
            # Of infinities alone, as of padding, onnxruntime's is the smallest finite number.
            lowest = call.op("Equal", x, call.const(np.finfo(call.dtype(0)).min))
            x = call.op("Where", lowest, call.const(-np.inf), x)
    if kind == "min":
        x = call.op("Neg", x)
    out = call.out.shape
    pooled = [out[axis] for axis in spatial]
    x = graph.reshape(x, [*lead, *pooled], [out[axis] for axis in order])
    return graph.transpose(x, np.argsort(order).tolist())


def _masked(call: Call) -> bool:
    """Whether some elements were replaced by an infinity."""
    name = call.arg(0)
    moved = call.graph.transposed(name)
    node = call.graph.maker(moved[0] if moved else name, "Where")
    arrays = call.graph.root.initializers
    return node is not None and any(
        name in arrays and arrays[name].size == 1 and np.isinf(arrays[name]).all()
        for name in node.input[1:]
    )
