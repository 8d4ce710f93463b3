"""Products of matrices and convolutions."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..call import Call, emits
from ..graph import Graph
from ..sizes import is_int
from ..values import Known
from .shapes import interior, pad_edges

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@emits("dot_general")
def dot_general(call: Call) -> str:
    names = []
    wanted = np.dtype(call.out.dtype)
    for i in range(2):
        name = call.arg(i)
        names.append(name if call.dtype(i) == wanted else call.graph.cast(name, wanted))
    ranks = (len(call.shape(0)), len(call.shape(1)))
    numbers, graph = call.params["dimension_numbers"], call.graph
    found = product(graph, names[0], names[1], numbers, ranks)
    if wanted == jnp.bfloat16 and graph.maker(found, "Einsum"):
        # Of all operators here, Einsum alone has no bfloat16 in ONNX.
        x, y = (graph.cast(name, np.float32) for name in names)
        return graph.cast(product(graph, x, y, numbers, ranks), wanted)
    return found


def product(graph: Graph, x: str, y: str, numbers: Any, ranks: tuple[int, int]) -> str:
    """``lax.dot_general``: a matrix product where ONNX's has the same order of axes."""
    (lhs, rhs), (lhs_batch, rhs_batch) = numbers
    leading = tuple(range(len(lhs_batch)))
    one = len(lhs) == 1 and tuple(lhs_batch) == leading and tuple(rhs_batch) == leading
    batches = len(leading)
    # With several batch axes or none: in the second case the left operand may have any rank.
    plain = one and ranks[1] == batches + 2 and (batches == 0 or ranks[0] == batches + 2)
    if plain and ranks[0] >= 2:
        if lhs[0] != ranks[0] - 1:
            if ranks[0] != batches + 2:
                return _einsum(graph, x, y, numbers, ranks)
            x = graph.transpose(x, [*leading, batches + 1, batches])
        if rhs[0] != batches:
            y = graph.transpose(y, [*leading, batches + 1, batches])
        return graph.op("MatMul", x, y)
    return _einsum(graph, x, y, numbers, ranks)


def _einsum(graph: Graph, x: str, y: str, numbers: Any, ranks: tuple[int, int]) -> str:
    (lhs, rhs), (lhs_batch, rhs_batch) = numbers
    letters = iter(_LETTERS)
    left = [next(letters) for _ in range(ranks[0])]
    right = [""] * ranks[1]
    for a, b in (*zip(lhs, rhs, strict=True), *zip(lhs_batch, rhs_batch, strict=True)):
        right[b] = left[a]
    right = [letter or next(letters) for letter in right]
    out = [left[axis] for axis in lhs_batch]
    out += [left[axis] for axis in range(ranks[0]) if axis not in (*lhs, *lhs_batch)]
    out += [right[axis] for axis in range(ranks[1]) if axis not in (*rhs, *rhs_batch)]
    equation = f"{''.join(left)},{''.join(right)}->{''.join(out)}"
    return graph.op("Einsum", x, y, equation=equation)


@emits("conv_general_dilated")
def conv_general_dilated(call: Call) -> str:
    params = call.params
    if params["batch_group_count"] != 1:
        raise call.refuse("batch_group_count")
    spec, graph = params["dimension_numbers"], call.graph
    if (found := _transposed(call)) is not None:
        return found
    x, wanted = call.arg(0), np.dtype(call.out.dtype)
    known = call.known(1)
    if known is not None:
        weights = np.ascontiguousarray(known.transpose(spec.rhs_spec), wanted)
        kernel = graph.constant(weights, hint=_hint(call))
    else:
        kernel = graph.transpose(call.arg(1), spec.rhs_spec)
        kernel = kernel if call.dtype(1) == wanted else graph.cast(kernel, wanted)
    x = graph.transpose(x if call.dtype(0) == wanted else graph.cast(x, wanted), spec.lhs_spec)
    shape = tuple(call.shape(0)[axis] for axis in spec.lhs_spec)
    inner = [0, 0, *(dilation - 1 for dilation in params["lhs_dilation"])]
    x = interior(call, x, shape, inner, graph.constant(0, wanted))
    padding = list(params["padding"])
    pads: list[int] | None = None
    if all(is_int(n) and n >= 0 for pair in padding for n in pair):
        pads = [int(low) for low, _ in padding] + [int(high) for _, high in padding]
    else:
        # Conv's own padding is fixed and adds alone.
        x = pad_edges(call, x, [(0, 0), (0, 0), *padding], graph.constant(0, wanted))
    out = convolution(
        graph,
        x,
        kernel,
        "",
        strides=list(params["window_strides"]),
        dilations=list(params["rhs_dilation"]),
        pads=pads,
        group=params["feature_group_count"],
        sizes=[call.shape(1)[axis] for axis in spec.rhs_spec[2:]],
    )
    return graph.transpose(out, np.argsort(spec.out_spec).tolist())


def _hint(call: Call) -> str:
    """The name of the kernel."""
    value = call.values[1]
    return value.hint if isinstance(value, Known) and value.hint else "constant"


def _transposed(call: Call) -> str | None:
    """``ConvTranspose`` for a convolution of an input that is spread out."""
    params, kernel = call.params, call.known(1)
    strides = [int(n) for n in params["lhs_dilation"]]
    pads = [n for pair in params["padding"] for n in pair]
    if kernel is None or call.dtype(0) != call.out.dtype or call.dtype(0).kind != "f":
        return None
    if set(strides) == {1} or set(params["window_strides"]) != {1} or not all(map(is_int, pads)):
        return None
    spec, graph, group = params["dimension_numbers"], call.graph, params["feature_group_count"]
    weights = kernel.transpose(spec.rhs_spec)
    features, inputs, *sizes = weights.shape
    # Of the convolution whose gradient this is: turned, with inputs and outputs exchanged.
    weights = weights[:, :, *(slice(None, None, -1),) * len(sizes)]
    weights = weights.reshape(group, features // group, inputs, *sizes).swapaxes(1, 2)
    weights = np.ascontiguousarray(weights.reshape(group * inputs, features // group, *sizes))
    dilations = list(params["rhs_dilation"])
    reach = [dilation * (n - 1) for dilation, n in zip(dilations, sizes, strict=True)]
    cut = [
        [n - pair[side] for n, pair in zip(reach, params["padding"], strict=True)]
        for side in (0, 1)
    ]
    out = graph.op(
        "ConvTranspose",
        graph.transpose(call.arg(0), spec.lhs_spec),
        graph.constant(weights, hint=_hint(call)),
        strides=strides,
        dilations=dilations,
        pads=[max(n, 0) for side in cut for n in side],
        group=group,
        kernel_shape=sizes,
    )
    # Further than the kernel reaches there are zeros.
    beyond = [(max(-low, 0), max(-high, 0)) for low, high in zip(*cut, strict=True)]
    out = pad_edges(call, out, [(0, 0), (0, 0), *beyond], call.const(0))
    return graph.transpose(out, np.argsort(spec.out_spec).tolist())


def convolution(
    graph: Graph,
    x: str,
    kernel: str,
    bias: str,
    *,
    strides: list[int],
    dilations: list[int],
    pads: list[int] | None,
    group: int,
    sizes: list[int],
) -> str:
    """``Conv``, channels first; also of no spatial axes."""
    spatial = len(strides)
    if not spatial:
        two = graph.ints(2)
        x, kernel = (graph.op("Unsqueeze", name, two) for name in (x, kernel))
        strides, dilations, pads, sizes = [1], [1], [0, 0], [1]
    inputs = (x, kernel, bias) if bias else (x, kernel)
    out = graph.op(
        "Conv",
        *inputs,
        strides=strides,
        dilations=dilations,
        pads=pads or [0] * (2 * len(strides)),
        group=group,
        kernel_shape=[int(n) for n in sizes],
    )
    return out if spatial else graph.op("Squeeze", out, graph.ints(2))
