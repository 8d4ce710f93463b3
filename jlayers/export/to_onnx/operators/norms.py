"""Norms as operators."""

from __future__ import annotations

import numpy as np

from ....layers.norm.batch_norm import BatchNorm
from ....layers.norm.group_norm import GroupNorm
from ....layers.norm.instance_norm import InstanceNorm
from ....layers.norm.layer_norm import LayerNorm
from ....layers.norm.rms_norm import RMSNorm
from ..call import Emitted, full
from .marking import LayerCall, Operand, writes
from .weights import Weight


def _scale(layer: LayerCall, name: str, size: int, value: float) -> Weight:
    """A parameter, or the value that changes nothing."""
    if name in layer.params:
        return Weight.of(layer.call, layer.params[name], layer.x.aval.dtype)
    return Weight.filled(layer.call, (size,), value, layer.x.aval.dtype)


def _plain(layer: LayerCall, rank: int) -> bool:
    x = layer.x
    return (
        isinstance(x, Operand)
        and len(x.shape) >= rank
        and x.aval.dtype == np.float32
        and isinstance(x.shape[-1], int)
    )


@writes(LayerNorm, RMSNorm)
def layer_norm(layer: LayerCall) -> Emitted | None:
    options = layer.options
    rms = "bias" not in options
    if not _plain(layer, 1) or options["axis"] not in (-1, (-1,)) or (rms and layer.opset < 23):
        return None
    if options["feature_axes"] not in (None, -1, (-1,)):
        return None
    call, x = layer.call, layer.x
    inputs = [full(call.graph, x.value, x.aval), _scale(layer, "scale", x.shape[-1], 1).name]
    if "bias" in layer.params:
        inputs.append(Weight.of(call, layer.params["bias"], x.aval.dtype).name)
    kind = "RMSNormalization" if rms else "LayerNormalization"
    return call.op(kind, *inputs, axis=-1, epsilon=float(options["epsilon"]))


@writes(BatchNorm)
def batch_norm(layer: LayerCall) -> Emitted | None:
    options, state = layer.options, layer.state
    if not _plain(layer, 2) or options["feature_axes"] not in (None, -1, (-1,)):
        return None
    if not {"mean", "var"} <= set(state):
        return None
    call, x = layer.call, layer.x
    size = x.shape[-1]
    weights = [_scale(layer, "scale", size, 1), _scale(layer, "bias", size, 0)]
    weights += [Weight.of(call, state[name], x.aval.dtype) for name in ("mean", "var")]
    first = channels_first(layer)
    y = call.op(
        "BatchNormalization",
        first,
        *(weight.name for weight in weights),
        epsilon=float(options["epsilon"]),
    )
    return channels_last(layer, y)


@writes(GroupNorm, InstanceNorm)
def group_norm(layer: LayerCall) -> Emitted | None:
    options = layer.options
    if not _plain(layer, 3) or options.get("running_statistics"):
        return None
    call, size = layer.call, layer.x.shape[-1]
    weights = [_scale(layer, "scale", size, 1).name, _scale(layer, "bias", size, 0).name]
    epsilon = float(options["epsilon"])
    first = channels_first(layer)
    if "groups" not in options:
        y = call.op("InstanceNormalization", first, *weights, epsilon=epsilon)
    elif layer.opset >= 21:
        groups = options["groups"]
        if options.get("group_size"):
            groups = size // options["group_size"]
        y = call.op("GroupNormalization", first, *weights, num_groups=groups, epsilon=epsilon)
    else:
        return None
    return channels_last(layer, y)


def channels_first(layer: LayerCall) -> str:
    """The input, (batch, channels, ...)."""
    rank, graph, x = len(layer.x.shape), layer.call.graph, layer.x
    return graph.transpose(full(graph, x.value, x.aval), [0, rank - 1, *range(1, rank - 1)])


def channels_last(layer: LayerCall, name: str) -> str:
    """An output as the layer has it, (batch, ..., channels)."""
    rank = len(layer.x.shape)
    return layer.call.graph.transpose(name, [0, *range(2, rank), 1])
