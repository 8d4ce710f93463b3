"""Complex numbers as pairs of real ones.

A primitive that only moves elements runs on both parts by its own emitter; for the others there is
arithmetic below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..call import EMITTERS, Call, Emitted, Emitter, emits, full
from ..values import Known, Pair, Tensor, Value
from .contractions import product

# They move elements, or are linear with real coefficients.
_MOVES = "broadcast_in_dim reshape squeeze expand_dims transpose concatenate stack unstack split"
_PLACES = "tile slice rev pad select_n gather dynamic_slice dynamic_update_slice scatter"
_SUMS = "scatter-add add sub neg add_any reduce_sum cumsum stop_gradient copy"
_PARTWISE = frozenset(f"{_MOVES} {_PLACES} {_SUMS}".split())
Rule = Callable[[Call, list[Any]], Any]
_RULES: dict[str, Rule] = {}


def is_complex(aval: Any) -> bool:
    """Whether a spec is of complex numbers."""
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and jax.numpy.issubdtype(dtype, np.complexfloating)


def real_aval(aval: Any) -> Any:
    """The spec of one part."""
    if not is_complex(aval):
        return aval
    half = np.float32 if np.dtype(aval.dtype) == np.complex64 else np.float64
    return jax.ShapeDtypeStruct(aval.shape, half)


def as_pair(value: Value) -> Pair:
    """A complex value as two."""
    if isinstance(value, Pair):
        return value
    if isinstance(value, Known):
        return Pair(
            Known(value.array.real, value.hint),
            Known(value.array.imag, value.hint),
        )
    raise TypeError("a complex tensor that is not a pair")


def parts_of(aval: Any, value: Value | None = None) -> list[Any]:
    """A value by its parts: itself alone, unless it is complex."""
    if not is_complex(aval):
        return [value]
    return [None, None] if value is None else [as_pair(value).real, as_pair(value).imag]


def emit_complex(call: Call, emitter: Emitter | None) -> Emitted:
    """An equation with complex operands or results."""
    rule = _RULES.get(call.name)
    if rule is not None:
        pairs = [
            as_pair(value) if is_complex(aval) else value
            for value, aval in zip(call.values, call.avals, strict=True)
        ]
        made: Emitted = rule(call, pairs)
        return made
    if call.name not in _PARTWISE or emitter is None:
        raise call.refuse("complex numbers", "jnp.real and jnp.imag before it, and real arithmetic")
    sides = []
    for side in range(2):
        values = [
            parts_of(aval, value)[side if is_complex(aval) else 0]
            for value, aval in zip(call.values, call.avals, strict=True)
        ]
        avals, outs = [list(map(real_aval, specs)) for specs in (call.avals, call.outs)]
        part = Call(call.converter, call.graph, call.name, call.params, values, avals, outs)
        emitted = emitter(part)
        sides.append([emitted] if isinstance(emitted, (str, Value)) else list(emitted))
    return [
        Pair(_tensor(real, out), _tensor(imag, out))
        for real, imag, out in zip(*sides, call.outs, strict=True)
    ]


def _tensor(value: Any, out: Any) -> Any:
    return Tensor(value, tuple(out.shape)) if isinstance(value, str) else value


def complex_rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def _apply(call: Call, name: str, *values: Any) -> Any:
    """One real equation of an elementwise primitive."""
    out = real_aval(call.outs[0])
    avals = [jax.ShapeDtypeStruct(out.shape, out.dtype)] * len(values)
    return EMITTERS[name](Call(call.converter, call.graph, name, {}, list(values), avals, [out]))


@complex_rule("mul")
def _mul(call: Call, pairs: list[Any]) -> Any:
    x, y = pairs
    real = _apply(
        call, "sub", _apply(call, "mul", x.real, y.real), _apply(call, "mul", x.imag, y.imag)
    )
    imag = _apply(
        call, "add", _apply(call, "mul", x.real, y.imag), _apply(call, "mul", x.imag, y.real)
    )
    return Pair(real, imag)


@complex_rule("square")
def _square(call: Call, pairs: list[Any]) -> Any:
    return _mul(call, [pairs[0], pairs[0]])


@complex_rule("integer_pow")
def _integer_pow(call: Call, pairs: list[Any]) -> Any:
    if call.params["y"] < 1:
        raise call.refuse("a complex number to a power below 1")
    result = pairs[0]
    for _ in range(call.params["y"] - 1):
        result = _mul(call, [result, pairs[0]])
    return result


@complex_rule("div")
def _div(call: Call, pairs: list[Any]) -> Any:
    x, y = pairs
    size = _apply(call, "add", _apply(call, "square", y.real), _apply(call, "square", y.imag))
    above: Any = _mul(call, [x, Pair(y.real, _apply(call, "neg", y.imag))])
    return Pair(_apply(call, "div", above.real, size), _apply(call, "div", above.imag, size))


@complex_rule("exp")
def _exp(call: Call, pairs: list[Any]) -> Any:
    (x,) = pairs
    size = _apply(call, "exp", x.real)
    parts = [_apply(call, name, x.imag) for name in ("cos", "sin")]
    return Pair(*(_apply(call, "mul", size, part) for part in parts))


@complex_rule("abs")
def _abs(call: Call, pairs: list[Any]) -> Any:
    (x,) = pairs
    squares = [_apply(call, "square", part) for part in (x.real, x.imag)]
    return _apply(call, "sqrt", _apply(call, "add", *squares))


@complex_rule("conj")
def _conj(call: Call, pairs: list[Any]) -> Any:
    x = pairs[0]
    if not isinstance(x, Pair):  # conj of a real array makes it complex
        return Pair(x, Known(np.zeros((), real_aval(call.out).dtype)))
    return Pair(x.real, _apply(call, "neg", x.imag))


@complex_rule("real")
def _real(call: Call, pairs: list[Any]) -> Any:
    return pairs[0].real


@complex_rule("imag")
def _imag(call: Call, pairs: list[Any]) -> Any:
    return pairs[0].imag


@complex_rule("complex")
def _complex(call: Call, pairs: list[Any]) -> Any:
    return Pair(*pairs)


@complex_rule("convert_element_type")
def _convert(call: Call, pairs: list[Any]) -> Any:
    (x,) = pairs
    if not is_complex(call.out):
        raise call.refuse("a complex number as a real one", "jnp.real(x)")
    if isinstance(x, Pair):
        return x
    part = full(call.graph, x, call.avals[0])
    dtype = real_aval(call.out).dtype
    tensor = Tensor(call.graph.cast(part, dtype), call.shape(0))
    return Pair(tensor, Known(np.zeros((), dtype)))


@complex_rule("dot_general")
def _dot(call: Call, pairs: list[Any]) -> Any:
    numbers = call.params["dimension_numbers"]
    ranks = (len(call.shape(0)), len(call.shape(1)))

    def real(a: Value, b: Value) -> str:
        names = [
            full(call.graph, part, real_aval(aval))
            for part, aval in zip((a, b), call.avals, strict=True)
        ]
        return product(call.graph, names[0], names[1], numbers, ranks)

    x, y = pairs
    graph, shape = call.graph, tuple(call.out.shape)
    if not isinstance(x, Pair):
        made = (real(x, y.real), real(x, y.imag))
    elif not isinstance(y, Pair):
        made = (real(x.real, y), real(x.imag, y))
    else:
        made = (
            graph.op("Sub", real(x.real, y.real), real(x.imag, y.imag)),
            graph.op("Add", real(x.real, y.imag), real(x.imag, y.real)),
        )
    return Pair(*(Tensor(name, shape) for name in made))


@emits("real", "imag", "conj", "complex", "fft")
def _of_complex(call: Call) -> Emitted:
    raise call.refuse("no complex operand")
