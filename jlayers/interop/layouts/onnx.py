"""The operators of ONNX that have weights.

See https://onnx.ai/onnx/operators: convolutions are (out, in/groups, ...), the gates of an LSTM
are i, o, f, c and of a GRU z, r, h, with a bias on either side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..formats.graph import Node
from .operators import Constant, Found, Graph, as_float32, changed
from .operators import found as _found

_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_FLOAT = 1  # TensorProto.FLOAT
_ELEMENTWISE = ("Identity", "Dropout", "Cast", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh")
_USUAL = {"LSTM": "sigmoid tanh tanh", "GRU": "sigmoid tanh", "RNN": "tanh"}
_NORMS = (
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
)


def found(graph: Graph) -> Iterator[Found]:
    """Each layer's arrays, in the order of the graph."""
    # First, since an array may be turned just before the sum that is a layer's bias.
    for node in graph.nodes:
        _fold(graph, node)
    for i, node in enumerate(graph.nodes):
        if i not in graph.done:
            yield from _of(graph, node)


def _fold(graph: Graph, node: Node) -> None:
    """What a node makes of an array of the file alone."""
    first, second, third = (graph.constant(node, number) for number in range(3))
    attributes = node.attributes
    match node.operator:
        case "Identity" | "Dropout" if first:
            graph.make(node, first, lambda array: array)
        case "Cast" if first:
            graph.make(node, first, as_float32 if attributes.get("to") == _FLOAT else np.asarray)
        case "Reshape" if first and second:
            sizes = second.array
            graph.make(node, first, lambda array: _reshaped(array, sizes))
        case "Unsqueeze" | "Squeeze" if first:
            axes = second.array if second else attributes.get("axes")
            graph.make(node, first, lambda array: _with_axes(array, node.operator, axes))
        case "Transpose" if first:
            graph.make(node, first, lambda array: array.transpose(attributes.get("perm")))
        case "DequantizeLinear" if first and second:
            graph.make(node, first, lambda array: _dequantised(array, second, third, attributes))


def _of(graph: Graph, node: Node) -> Iterator[Found]:
    first, second, third = (graph.constant(node, number) for number in range(3))
    attributes = node.attributes
    match node.operator:
        case "MatMul" if second and second.array.ndim == 2:
            bias = graph.then_sum(node, second.array.shape[1])
            yield _found(_dense(graph, node), kernel=second, bias=bias)
        case "Gemm" if second and second.array.ndim == 2 and not attributes.get("transA"):
            kernel = changed(second, np.transpose) if attributes.get("transB") else second
            yield _found(_dense(graph, node), kernel=kernel, bias=third)
        case "Conv" | "FusedConv" if second:
            bias = third or graph.then_sum(node, second.array.shape[0])
            yield _found("conv", kernel=changed(second, _channels_last), bias=bias)
        case "ConvTranspose" if second:
            groups = attributes.get("group", 1)
            kernel = changed(second, lambda array: _turned(array, groups))
            features = second.array.shape[1] * int(str(groups))
            bias = third or graph.then_sum(node, features)
            yield _found("conv_transpose", kernel=kernel, bias=bias)
        case "BatchNormalization" if second and third:
            mean, var = graph.constant(node, 3), graph.constant(node, 4)
            yield _found("batch_norm", scale=second, bias=third, mean=mean, var=var)
        case operator if operator in _NORMS and second:
            yield _found("norm", scale=second, bias=third)
        case "Gather" if first and first.array.ndim == 2 and first.array.dtype.kind not in "biu":
            yield _found("table", embedding=first)
        case "PRelu" if second:
            yield _found("prelu", slope=second)
        case "LSTM" | "GRU" | "RNN" if second and third:
            yield from _recurrent(graph, node, second, third)
        case "Mul":
            yield from graph.scaled(node)
        case "Add" if (value := graph.either(node)) and value.array.size > 1:
            yield _found("sum", embedding=value)


def _dense(graph: Graph, node: Node) -> str:
    """Whether an image with its channels first was flattened into the rows of the kernel."""
    before = graph.maker(node)
    while before and before.operator in _ELEMENTWISE:
        before = graph.maker(before)
    if before is None or before.operator not in ("Flatten", "Reshape"):
        return "dense"
    sizes = graph.constant(before, 1)
    image = graph.maker(before)
    turned = image is not None and image.operator == "Transpose"
    return "dense" if turned or (sizes and sizes.array.size != 2) else "flat_dense"


def _reshaped(array: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Sizes of 0 are those of the array."""
    return array.reshape([size or array.shape[i] for i, size in enumerate(sizes.tolist())])


def _with_axes(array: np.ndarray, operator: str, axes: Any) -> np.ndarray:
    if operator == "Squeeze":
        return np.squeeze(array, None if axes is None else tuple(axes))
    return np.expand_dims(array, tuple(axes))


def _recurrent(graph: Graph, node: Node, kernel: Constant, recurrent: Constant) -> Iterator[Found]:
    bias = graph.constant(node, 3)
    usual = _USUAL[node.operator].split() * kernel.array.shape[0]
    functions: Any = node.attributes.get("activations") or usual
    # Peepholes, clipped cells and other activations are not these layers.
    if "clip" in node.attributes or graph.constant(node, 7):
        return
    if [str(name).lower() for name in functions] != usual:
        return
    size = kernel.array.shape[0]
    for number, part in enumerate(("forward", "backward") if size == 2 else ("",)):

        def of(constant: Constant, number: int = number) -> Constant:
            return Constant(constant.name, constant.array[number])

        yield _direction(node, part, of(kernel), of(recurrent), bias and of(bias))


def _direction(
    node: Node, part: str, kernel: Constant, recurrent: Constant, bias: Constant | None
) -> Found:
    """One direction: kernels (gates, in), and the biases of both sides one after the other."""
    order = _GATES[node.operator]
    kernels = {
        "kernel": changed(kernel, lambda array: _gates(array.T, order)),
        "recurrent_kernel": changed(recurrent, lambda array: _gates(array.T, order)),
    }
    one = changed(bias, lambda array: _gates(np.split(array, 2)[0], order))
    two = changed(bias, lambda array: _gates(np.split(array, 2)[1], order))
    if node.operator == "GRU":
        kind = "gru_after" if node.attributes.get("linear_before_reset") else "gru"
        return _found(kind, part, **kernels, bias=one, recurrent_bias=two)
    both = changed(one, lambda array: array + two.array) if two else None
    return _found(node.operator.lower(), part, **kernels, bias=both)


def _gates(array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    parts = np.split(array, len(order), axis=-1)
    return np.concatenate([parts[gate] for gate in order], axis=-1)


def _channels_last(kernel: np.ndarray) -> np.ndarray:
    return np.moveaxis(kernel, (0, 1), (-1, -2))


def _turned(kernel: np.ndarray, groups: Any) -> np.ndarray:
    """(in, out/groups, ...), of the convolution that this is the gradient of."""
    kernel = np.concatenate(np.split(kernel, int(groups)), axis=1)
    return np.moveaxis(np.flip(kernel, tuple(range(2, kernel.ndim))), (0, 1), (-2, -1))


def _dequantised(
    array: np.ndarray, scale: Constant, zero: Constant | None, attributes: Any
) -> np.ndarray:
    """By one scale, or by one for each entry of an axis."""
    shape = [1] * array.ndim
    if scale.array.size > 1:
        shape[attributes.get("axis", 1)] = -1
    values = array.astype(np.float32) - (0 if zero is None else zero.array.reshape(shape))
    return values * scale.array.astype(np.float32).reshape(shape)
