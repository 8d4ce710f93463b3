"""Integers of 8 and 16 bits, and unsigned ones of 32, computed in wider ones and cast back.

Runtimes have kernels of most operators for signed integers of 32 and 64 bits alone. A sum or
product that does not fit is cut off by the cast as the narrow one is.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from .call import Call, Emitted, Emitter
from .values import Known, Tensor, Value

_WIDER: dict[Any, Any] = {
    np.dtype(name): np.dtype("int32") for name in ("int8", "int16", "uint8", "uint16")
}
_WIDER[np.dtype("uint32")] = np.dtype("int64")
# There are kernels of these for all dtypes.
_MOVES = "broadcast_in_dim reshape squeeze expand_dims transpose slice concatenate split stack"
_OTHERS = "unstack iota copy stop_gradient convert_element_type dim_as_value"
_LEFT = frozenset(f"{_MOVES} {_OTHERS}".split())


def is_narrow(call: Call) -> bool:
    """Whether an equation is to be computed in wider integers."""
    if call.name == "shift_right_logical" and call.dtype(0).kind == "i":
        # What a wider one would shift in is its sign.
        return False
    return call.name not in _LEFT and any(
        aval.dtype in _WIDER for aval in (*call.avals, *call.outs) if hasattr(aval, "dtype")
    )


def emit_wider(call: Call, emitter: Emitter) -> Emitted:
    """What an emitter writes for wider integers, in the equation's own dtypes."""
    params = dict(call.params)
    if call.name == "gather" and params.get("fill_value") is None and call.out.dtype in _WIDER:
        info = np.iinfo(call.out.dtype)
        params["fill_value"] = info.min if info.kind == "i" else info.max
    avals = [_wider(aval) for aval in call.avals]
    values = [
        _cast(call, value, wide.dtype) if aval is not wide else value
        for value, aval, wide in zip(call.values, call.avals, avals, strict=True)
    ]
    outs = list(map(_wider, call.outs))
    wide = Call(call.converter, call.graph, call.name, params, values, avals, outs)
    emitted = emitter(wide)
    results = [emitted] if isinstance(emitted, (str, Value)) else list(emitted)
    return [
        result if out.dtype not in _WIDER else _cast(call, _value(result, out), out.dtype)
        for result, out in zip(results, call.outs, strict=True)
    ]


def _wider(aval: Any) -> Any:
    wide = _WIDER.get(getattr(aval, "dtype", None))
    return aval if wide is None else jax.ShapeDtypeStruct(aval.shape, wide)


def _value(result: Any, out: Any) -> Any:
    return Tensor(result, tuple(out.shape)) if isinstance(result, str) else result


def _cast(call: Call, value: Any, dtype: Any) -> Value:
    if isinstance(value, Known):
        return Known(value.array.astype(dtype), value.hint)
    return Tensor(call.graph.cast(value.name, dtype), value.shape)
