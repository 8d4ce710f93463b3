"""The operators of TensorFlow Lite that have weights, as its schema calls them.

Kernels of convolutions are (out, height, width, in), those of depthwise ones (1, height, width,
out), and dense ones (out, in).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..formats.graph import Node
from .operators import Found, Graph, as_float32, changed
from .operators import found as _found


def found(graph: Graph) -> Iterator[Found]:
    """Each layer's arrays, in the order of the graph."""
    for node in graph.nodes:
        _fold(graph, node)
    for i, node in enumerate(graph.nodes):
        if i in graph.done:
            continue
        first, second, third = (graph.constant(node, number) for number in range(3))
        match node.operator:
            case "CONV_2D" if second:
                kernel = changed(second, lambda array: np.moveaxis(array, 0, -1))
                bias = third or graph.then_sum(node, second.array.shape[0])
                yield _found("conv", kernel=kernel, bias=bias)
            case "DEPTHWISE_CONV_2D" if second:
                kernel = changed(second, lambda array: np.moveaxis(array, 0, -2))
                bias = third or graph.then_sum(node, second.array.shape[-1])
                yield _found("conv", kernel=kernel, bias=bias)
            case "FULLY_CONNECTED" if second:
                bias = third or graph.then_sum(node, second.array.shape[0])
                yield _found("dense", kernel=changed(second, np.transpose), bias=bias)
            case "BATCH_MATMUL" if second and second.array.ndim == 2:
                bias = graph.then_sum(node, second.array.shape[1])
                yield _found("dense", kernel=second, bias=bias)
            case "TRANSPOSE_CONV" if second:
                kernel = changed(second, _turned)
                bias = graph.constant(node, 3)
                bias = bias or graph.then_sum(node, second.array.shape[0])
                yield _found("conv_transpose", kernel=kernel, bias=bias)
            case "GATHER" if (
                first and first.array.ndim == 2 and first.array.dtype.kind not in "biu"
            ):
                yield _found("table", embedding=first)
            case "PRELU" if second:
                yield _found("prelu", slope=second)
            case "MUL":
                yield from graph.scaled(node)
            case "ADD" if (value := graph.either(node)) and value.array.size > 1:
                yield _found("sum", embedding=value)


def _fold(graph: Graph, node: Node) -> None:
    """What a node makes of an array of the file alone."""
    first, second = graph.constant(node, 0), graph.constant(node, 1)
    match node.operator:
        case "DEQUANTIZE" | "CAST" if first:
            graph.make(node, first, as_float32)
        case "TRANSPOSE" if first and second:
            axes = second.array
            graph.make(node, first, lambda array, axes=axes: array.transpose(axes))


def _turned(kernel: np.ndarray) -> np.ndarray:
    """(out, height, width, in), of the convolution that this is the gradient of."""
    return np.moveaxis(np.flip(kernel, (1, 2)), 0, -1)
