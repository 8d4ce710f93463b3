"""Primitives that move elements and compute nothing."""

from __future__ import annotations

import numpy as np

from ..call import Call, Emitted, emits
from ..sizes import is_int, is_static
from ..values import Known, Pair, Tensor, Value


@emits("broadcast_in_dim")
def broadcast_in_dim(call: Call) -> Value:
    value = call.values[0]
    axes = call.params["broadcast_dimensions"]
    if isinstance(value, Pair):
        raise call.refuse("complex numbers")
    shape = value.shape
    if not shape:
        return value
    # What is repeated stays small until a node needs it in full.
    new = [1] * len(call.out.shape)
    inner = len(axes) - len(shape)
    for axis, dim in zip(axes[inner:], shape, strict=True):
        new[axis] = dim
    if isinstance(value, Known):
        return Known(value.array.reshape(new), value.hint)
    absent = [axis for axis in range(len(new)) if axis not in axes[inner:]]
    name = value.name
    if absent:
        name = call.op("Unsqueeze", name, call.graph.ints(*absent))
    return Tensor(name, tuple(new))


@emits("reshape")
def reshape(call: Call) -> str:
    return call.graph.reshape(call.arg(0), call.shape(0), call.out.shape)


@emits("squeeze")
def squeeze(call: Call) -> str:
    return call.op("Squeeze", call.arg(0), call.graph.ints(*call.params["dimensions"]))


@emits("expand_dims")
def expand_dims(call: Call) -> str:
    return call.op("Unsqueeze", call.arg(0), call.graph.ints(*call.params["dimensions"]))


@emits("transpose")
def transpose(call: Call) -> Value | str:
    value, order = call.values[0], call.params["permutation"]
    if isinstance(value, Tensor) and len(value.shape) == len(order):
        name = call.graph.transpose(value.name, order)
        return Tensor(name, tuple(value.shape[axis] for axis in order))
    return call.graph.transpose(call.arg(0), order)


@emits("concatenate")
def concatenate(call: Call) -> str:
    axis = call.params["dimension"]
    some = [i for i in range(len(call.values)) if _may_hold(call.shape(i)[axis])]
    if not some:
        return call.arg(0)
    names = [call.arg(i) for i in some]
    if len(names) == 1:
        return names[0]
    before = [call.graph.transposed(name) for name in names]
    orders = {tuple(found[1]) for found in before if found is not None}
    if None in before or len(orders) > 1:
        return call.op("Concat", *names, axis=axis)
    # Before the transpose that all of them went through, as elementwise operations are.
    (order,) = orders
    sources = [found[0] for found in before if found is not None]
    return call.graph.transpose(call.op("Concat", *sources, axis=order[axis]), order)


def _may_hold(dim: object) -> bool:
    return not (isinstance(dim, int) and dim == 0)


@emits("stack")
def stack(call: Call) -> str:
    axis = call.params["axis"]
    at = call.graph.ints(axis)
    return call.op("Concat", *(call.op("Unsqueeze", x, at) for x in call.args()), axis=axis)


@emits("unstack")
def unstack(call: Call) -> Emitted:
    axis = call.params["axis"]
    parts = split_into(call, (1,) * len(call.outs), axis)
    return [call.op("Squeeze", part, call.graph.ints(axis)) for part in parts]


@emits("split")
def split(call: Call) -> Emitted:
    return split_into(call, call.params["sizes"], call.params["axis"])


def split_into(call: Call, sizes: tuple[int, ...], axis: int) -> list[str]:
    """Consecutive parts of the operand along an axis."""
    sizes_name = call.graph.shape(sizes)
    return list(call.graph.ops("Split", call.arg(0), sizes_name, outputs=len(sizes), axis=axis))


@emits("tile")
def tile(call: Call) -> str:
    reps = call.params["reps"]
    rank = max(len(reps), len(call.shape(0)))
    shape = (1,) * (rank - len(call.shape(0))) + call.shape(0)
    x = call.graph.reshape(call.arg(0), call.shape(0), shape)
    return call.op("Tile", x, call.graph.shape((1,) * (rank - len(reps)) + tuple(reps)))


@emits("slice")
def slice_(call: Call) -> str:
    starts, ends = call.params["start_indices"], call.params["limit_indices"]
    steps = call.params["strides"] or (1,) * len(starts)
    shape = call.shape(0)
    axes = [
        axis
        for axis in range(len(starts))
        if not (_is(starts[axis], 0) and ends[axis] == shape[axis] and steps[axis] == 1)
    ]
    return call.graph.slice(
        call.arg(0),
        [starts[axis] for axis in axes],
        [ends[axis] for axis in axes],
        axes,
        [steps[axis] for axis in axes],
    )


def _is(dim: object, number: int) -> bool:
    return is_int(dim) and dim == number


@emits("rev")
def rev(call: Call) -> str:
    axes = call.params["dimensions"]
    count = len(axes)
    graph = call.graph
    return call.op(
        "Slice",
        call.arg(0),
        graph.ints(*([-1] * count)),
        graph.ints(*([-(2**31)] * count)),
        graph.ints(*axes),
        graph.ints(*([-1] * count)),
    )


@emits("pad")
def pad(call: Call) -> str:
    config = call.params["padding_config"]
    value = call.arg(1)
    x = interior(call, call.arg(0), call.shape(0), [inner for _, _, inner in config], value)
    return pad_edges(call, x, [(low, high) for low, high, _ in config], value)


def pad_edges(call: Call, x: str, edges: list[tuple[object, object]], value: str) -> str:
    """``x`` with elements before and after each axis, or without where they are negative."""
    if all(_is(n, 0) for pair in edges for n in pair):
        return x
    pads = call.graph.shape([low for low, _ in edges] + [high for _, high in edges])
    return call.op("Pad", x, pads, value)


def interior(call: Call, x: str, shape: tuple[object, ...], inner: list[int], value: str) -> str:
    """``x`` with that many elements between those of each axis."""
    sizes = list(shape)
    graph = call.graph
    for axis, count in enumerate(inner):
        if not count:
            continue
        spread = graph.op("Unsqueeze", x, graph.ints(axis + 1))
        rank = len(sizes) + 1
        edges: list[tuple[object, object]] = [(0, 0)] * rank
        edges[axis + 1] = (0, count)
        spread = pad_edges(call, spread, edges, value)
        size = sizes[axis]
        split_shape = [*sizes[: axis + 1], count + 1, *sizes[axis + 1 :]]
        sizes[axis] = size * (count + 1)  # type: ignore[operator]
        joined = graph.reshape(spread, split_shape, sizes)
        x = graph.slice(joined, [0], [sizes[axis] - count], [axis])  # type: ignore[operator]
        sizes[axis] = sizes[axis] - count  # type: ignore[operator]
    return x


@emits("iota")
def iota(call: Call) -> Value:
    shape, axis, dtype = tuple(call.out.shape), call.params["dimension"], call.out.dtype
    new = [1] * len(shape)
    new[axis] = shape[axis]
    if is_static((shape[axis],)):
        return Known(np.arange(shape[axis], dtype=dtype).reshape(new))
    return Tensor(count_up(call, shape[axis], dtype, new), tuple(new))


def count_up(call: Call, size: object, dtype: object, shape: list[object] | list[int]) -> str:
    """0, 1, ... along the one axis of a shape that is not 1."""
    graph = call.graph
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    numbers = call.op("Range", zero, graph.size(size), one)
    if np.dtype(dtype) != np.int64:  # type: ignore[call-overload]
        numbers = graph.cast(numbers, dtype)
    return graph.reshape(numbers, [size], shape)


@emits("dim_as_value")
def dim_as_value(call: Call) -> str:
    return call.graph.cast(call.graph.size(call.params["dim"]), call.out.dtype)


@emits("optimization_barrier")
def optimization_barrier(call: Call) -> Emitted:
    return call.values
