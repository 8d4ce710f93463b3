"""Attention as the operator of this name, between its projections."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....layers.attention.cross_attention import CrossAttention
from ....layers.attention.self_attention import SelfAttention
from ..call import Emitted, full
from .marking import LayerCall, Operand, writes
from .weights import Weight

# With any of these on, scores are not those of the operator.
_WITHOUT = (
    *("window", "pattern", "rope", "alibi", "relative", "qk_norm", "sinks", "gate", "weights"),
)


@writes(SelfAttention)
def self_attention(layer: LayerCall) -> Emitted | None:
    return _attention(layer, layer.x, layer.x)


@writes(CrossAttention)
def cross_attention(layer: LayerCall) -> Emitted | None:
    x = layer.x
    if not isinstance(x, tuple) or len(x) not in (2, 3):
        return None
    return _attention(layer, *x)


def _attention(layer: LayerCall, x: Any, keys: Any, values: Any = None) -> Emitted | None:
    values = keys if values is None else values
    options, call = layer.options, layer.call
    given = (x, keys, values)
    if layer.opset < 23 or any(options.get(name) for name in _WITHOUT):
        return None
    if not all(isinstance(a, Operand) and a.aval.dtype == np.float32 for a in given):
        return None
    heads = int(options["num_heads"])
    kv_heads = int(options["num_kv_heads"] or heads)
    maps = [
        _project(layer, name, full(call.graph, a.value, a.aval))
        for name, a in zip(("query", "key", "value"), given, strict=True)
    ]
    y = call.op(
        "Attention",
        *maps,
        q_num_heads=heads,
        kv_num_heads=kv_heads,
        is_causal=int(bool(options.get("causal"))),
        scale=options["scale"] and float(options["scale"]),
        softcap=options["soft_cap"] and float(options["soft_cap"]),
    )
    return _project(layer, "out", y)


def _project(layer: LayerCall, name: str, x: str) -> str:
    call = layer.call
    y = call.op("MatMul", x, Weight.of(call, layer.params[f"{name}_kernel"], np.float32).name)
    bias = layer.params.get(f"{name}_bias")
    return y if bias is None else call.op("Add", y, Weight.of(call, bias, np.float32).name)
