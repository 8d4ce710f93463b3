"""Pools, resizing and the lookup of embeddings as operators."""

from __future__ import annotations

import numpy as np

from ....layers.linear.embedding import Embedding
from ....layers.pooling.avg_pool import AvgPool
from ....layers.pooling.base import PoolWindow
from ....layers.pooling.global_avg_pool import GlobalAvgPool
from ....layers.resampling.resize import Resize
from ..call import Emitted, full
from ..sizes import is_int
from .marking import LayerCall, Operand, writes
from .norms import channels_first, channels_last
from .weights import Weight


def _is_image(layer: LayerCall) -> bool:
    x = layer.x
    return isinstance(x, Operand) and len(x.shape) >= 3 and x.aval.dtype == np.float32


@writes(Embedding)
def embedding(layer: LayerCall) -> Emitted | None:
    x, call = layer.x, layer.call
    if not isinstance(x, Operand) or layer.options["max_norm"] is not None:
        return None
    table = Weight.of(call, layer.params["embedding"])
    return call.op("Gather", table.name, full(call.graph, x.value, x.aval), axis=0)


@writes(AvgPool)
def avg_pool(layer: LayerCall) -> Emitted | None:
    options = layer.options
    if not _is_image(layer) or options["ceil_mode"] or options["divisor"] is not None:
        return None
    counted = bool(options["count_include_pad"])
    window = PoolWindow(
        options["window_shape"],
        options["strides"],
        options["padding"],
        options["dilation"],
        ceil_mode=False,
        counts_padding=counted,
    )
    found = window.for_input(layer.x.aval)
    pads = [pair[side] for side in (0, 1) for pair in found.padding]
    if not all(map(is_int, pads)) or len(found.window_shape) > 3:
        return None
    y = layer.call.op(
        "AveragePool",
        channels_first(layer),
        kernel_shape=list(found.window_shape),
        strides=list(found.strides),
        dilations=list(found.dilation),
        pads=[int(n) for n in pads],
        count_include_pad=int(counted),
    )
    return channels_last(layer, y)


@writes(GlobalAvgPool)
def global_avg_pool(layer: LayerCall) -> Emitted | None:
    if not _is_image(layer):
        return None
    call, x = layer.call, layer.x
    axes = range(1, len(x.shape) - 1)
    return call.graph.reduce("ReduceMean", full(call.graph, x.value, x.aval), axes)


@writes(Resize)
def resize(layer: LayerCall) -> Emitted | None:
    """Upwards by whole factors: what other sizes are, libraries do not agree on."""
    options, x = layer.options, layer.x
    kind = {"nearest": "nearest", "linear": "linear"}.get(options["method"])
    factor = options["factor"]
    if kind is None or not _is_image(layer) or options["coordinates"] != "half_pixel":
        return None
    rank = len(x.shape) - 2
    factors = factor if isinstance(factor, tuple) else (factor,) * rank
    if options["rounding"] or options["exclude_outside"]:
        return None
    if not all(isinstance(n, int) and n >= 1 for n in factors):
        return None
    graph = layer.call.graph
    scales = graph.constant(np.array([1, 1, *factors], np.float32))
    settings = {"nearest_mode": "round_prefer_ceil"} if kind == "nearest" else {}
    y = layer.call.op(
        "Resize",
        channels_first(layer),
        "",
        scales,
        mode=kind,
        coordinate_transformation_mode="half_pixel",
        **settings,
    )
    return channels_last(layer, y)
