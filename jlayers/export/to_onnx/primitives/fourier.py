"""Fourier transforms as products with their matrices."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ..call import Call, full
from ..sizes import is_int
from ..values import Pair, Tensor, Value
from .complexes import complex_rule, real_aval
from .shapes import count_up

# As JAX numbers them.
_FFT, _IFFT, _RFFT, _IRFFT = range(4)


@complex_rule("fft")
def fft(call: Call, pairs: list[Any]) -> Any:
    """Along the last axes, one after another."""
    kind, lengths = int(call.params["fft_type"]), call.params["fft_lengths"]
    rank = len(call.shape(0))
    *others, last = zip(range(rank - len(lengths), rank), lengths, strict=True)
    # Of real numbers, the last axis has half of the bins: it comes first, and last on the way back.
    inner = {_RFFT: _FFT, _IRFFT: _IFFT}.get(kind, kind)
    steps = [(*one, inner) for one in others]
    steps.insert(0 if kind == _RFFT else len(steps), (*last, kind))
    x, shape = pairs[0], list(call.shape(0))
    for axis, n, step in steps:
        x, shape = _transform(call, x, shape, axis, n, step)
    return x


def _transform(
    call: Call, x: Any, shape: list[Any], axis: int, n: Any, kind: int
) -> tuple[Any, list[Any]]:
    graph, dtype = call.graph, real_aval(call.avals[0]).dtype
    spec = jax.ShapeDtypeStruct(tuple(shape), dtype)
    order = list(range(len(shape)))
    order[axis], order[-1] = order[-1], order[axis]
    cos, sin = _matrices(call, n, kind, dtype)
    sizes = {_RFFT: n // 2 + 1, _IRFFT: n}
    shape = [*shape[:axis], sizes.get(kind, n), *shape[axis + 1 :]]

    def times(part: Value, matrix: str) -> str:
        name = graph.transpose(full(graph, part, spec), order)
        return graph.transpose(graph.op("MatMul", name, matrix), order)

    def tensor(name: str) -> Tensor:
        return Tensor(name, tuple(shape))

    # The matrices are those of exp(i * angle): forwards the angle is negative.
    if kind == _RFFT:
        return Pair(tensor(times(x, cos)), tensor(graph.op("Neg", times(x, sin)))), shape
    if kind == _IRFFT:
        return tensor(graph.op("Sub", times(x.real, cos), times(x.imag, sin))), shape
    first, second = ("Add", "Sub") if kind == _FFT else ("Sub", "Add")
    real = graph.op(first, times(x.real, cos), times(x.imag, sin))
    imag = graph.op(second, times(x.imag, cos), times(x.real, sin))
    return Pair(tensor(real), tensor(imag)), shape


def _matrices(call: Call, n: Any, kind: int, dtype: Any) -> tuple[str, str]:
    """Cosines and sines of all angles, scaled as the way back is."""
    graph = call.graph
    bins = n // 2 + 1 if kind in (_RFFT, _IRFFT) else n
    rows, columns = (bins, n) if kind == _IRFFT else (n, bins)
    if is_int(n):
        turns = np.outer(np.arange(rows), np.arange(columns)) % n
        weights = np.ones((rows, 1))
        if kind == _IRFFT:
            # All bins but the first, and the last of an even length, count twice.
            weights[1:] = 2
            if n % 2 == 0:
                weights[-1] = 1
        if kind in (_IFFT, _IRFFT):
            weights = weights / n
        parts = [function(2 * np.pi * turns / n) * weights for function in (np.cos, np.sin)]
        return graph.constant(parts[0], dtype), graph.constant(parts[1], dtype)
    size = graph.size(n)
    down = count_up(call, rows, np.int64, [rows, 1])
    across = count_up(call, columns, np.int64, [1, columns])
    turns = call.op("Mod", call.op("Mul", down, across), size)
    length = graph.cast(size, dtype)
    whole = graph.constant(2 * np.pi, dtype)
    angles = call.op("Div", call.op("Mul", graph.cast(turns, dtype), whole), length)
    names = [call.op(function, angles) for function in ("Cos", "Sin")]
    if kind in (_IFFT, _IRFFT):
        weight = call.op("Div", graph.constant(1, dtype), length)
        if kind == _IRFFT:
            twice = call.op("Mod", call.op("Mul", down, graph.constant(2, np.int64)), size)
            once = call.op("Equal", twice, graph.constant(0, np.int64))
            counts = call.op("Where", once, graph.constant(1, dtype), graph.constant(2, dtype))
            weight = call.op("Mul", weight, counts)
        names = [call.op("Mul", name, weight) for name in names]
    return names[0], names[1]
