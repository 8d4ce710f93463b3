"""Primitives of one element at a time."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from onnx import helper

from ..call import Call, elementwise

_SAME = {
    "neg": "Neg",
    "exp": "Exp",
    "log": "Log",
    "tanh": "Tanh",
    "logistic": "Sigmoid",
    "sin": "Sin",
    "cos": "Cos",
    "tan": "Tan",
    "asin": "Asin",
    "acos": "Acos",
    "atan": "Atan",
    "sinh": "Sinh",
    "cosh": "Cosh",
    "asinh": "Asinh",
    "acosh": "Acosh",
    "atanh": "Atanh",
    "abs": "Abs",
    "sign": "Sign",
    "floor": "Floor",
    "ceil": "Ceil",
    "sqrt": "Sqrt",
    "erf": "Erf",
    "sub": "Sub",
    "pow": "Pow",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
}
# On bools these are logic.
_NUMBERS_OR_BOOLS = {
    "add": ("Add", "Or"),
    "add_any": ("Add", "Or"),
    "mul": ("Mul", "And"),
    "max": ("Max", "Or"),
    "min": ("Min", "And"),
    "and": ("BitwiseAnd", "And"),
    "or": ("BitwiseOr", "Or"),
    "xor": ("BitwiseXor", "Xor"),
    "not": ("BitwiseNot", "Not"),
}
_SHIFTS = {"shift_left": "LEFT", "shift_right_logical": "RIGHT"}
# Giles, "Approximating the erfinv function" (2010), as XLA has it for float32.
_ERF_INV_SMALL = (
    *(2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087),
    *(-0.00125372503, -0.00417768164, 0.246640727, 1.50140941),
)
_ERF_INV_LARGE = (
    *(-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773),
    *(-0.0076224613, 0.00943887047, 1.00167406, 2.83297682),
)


def _bool(call: Call) -> bool:
    return call.dtype(0).kind == "b"


def _register() -> None:
    for name, kind in _SAME.items():
        elementwise(name)(lambda call, *x, kind=kind: call.op(kind, *x))
    for name, kinds in _NUMBERS_OR_BOOLS.items():
        elementwise(name)(lambda call, *x, kinds=kinds: _logic(call, kinds, *x))
    for name, direction in _SHIFTS.items():
        elementwise(name)(lambda call, x, n, direction=direction: _shift(call, x, n, direction))


def _logic(call: Call, kinds: tuple[str, str], *x: str) -> str:
    if _bool(call):
        return call.op(kinds[1], *x)
    if kinds[0] == "Add" and (fused := _with_bias(call, *x)) is not None:
        return fused
    if kinds[0] == "Max" and call.dtype(0).kind == "f":
        arrays = [call.graph.root.initializers.get(name) for name in x]
        if arrays[1] is not None and arrays[1].size == 1 and not arrays[1].any():
            return call.op("Relu", x[0])
    return call.op(kinds[0], *x)


def _with_bias(call: Call, x: str, y: str) -> str | None:
    """A convolution with a bias, for the sum of one and an array of its channels."""
    graph = call.graph
    node = graph.maker(x, "Conv") or graph.maker(x, "ConvTranspose")
    bias = graph.root.initializers.get(y)
    if node is None or len(node.input) != 2 or bias is None or len(call.out.shape) < 3:
        return None
    features = bias.size
    # Channels first, as the operands of a sum are before their transposes.
    if bias.shape != (1, features, *(1,) * (len(call.out.shape) - 2)):
        return None
    weights = graph.root.initializers.get(node.input[1])
    if weights is None or (weights.shape[0] != features and node.op_type == "Conv"):
        return None
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "ConvTranspose" and weights.shape[1] * settings["group"] != features:
        return None
    flat = graph.constant(bias.reshape(-1), hint=graph.hint_of(y))
    return graph.op(node.op_type, *node.input, flat, **settings)


def _shift(call: Call, x: str, n: str, direction: str) -> str:
    dtype = call.dtype(0)
    unsigned = np.dtype(f"uint{8 * dtype.itemsize}")
    # BitShift takes unsigned integers alone; a shift by all bits is 0 in JAX.
    graph = call.graph
    shifted = call.op(
        "BitShift", graph.cast(x, unsigned), graph.cast(n, unsigned), direction=direction
    )
    small = call.op("Less", n, call.const(8 * dtype.itemsize))
    return call.op("Where", small, graph.cast(shifted, dtype), call.const(0))


_register()


@elementwise("shift_right_arithmetic")
def shift_right_arithmetic(call: Call, x: str, n: str) -> str:
    shifted = _shift(call, x, n, "RIGHT")
    if call.dtype(0).kind == "u":
        return shifted
    # The ones that come in on the left are zeros of its complement.
    negative = call.op("BitwiseNot", _shift(call, call.op("BitwiseNot", x), n, "RIGHT"))
    return call.op("Where", call.op("Less", x, call.const(0)), negative, shifted)


@elementwise("div")
def div(call: Call, x: str, y: str) -> str:
    return call.op("Div", x, y)


@elementwise("rem")
def rem(call: Call, x: str, y: str) -> str:
    # With the sign of x, as in C; the default has that of y.
    return call.op("Mod", x, y, fmod=1)


@elementwise("eq", "eq_to")
def eq(call: Call, x: str, y: str) -> str:
    return call.op("Equal", x, y)


@elementwise("ne")
def ne(call: Call, x: str, y: str) -> str:
    return call.op("Not", call.op("Equal", x, y))


@elementwise("le_to", "lt_to")
def ordered(call: Call, x: str, y: str) -> str:
    """The order of sorting, with NaN above all numbers."""
    kind = "LessOrEqual" if call.name == "le_to" else "Less"
    less = call.op(kind, x, y)
    if not jnp.issubdtype(call.dtype(0), jnp.floating):
        return less
    largest = call.op("IsNaN", y)
    if call.name == "lt_to":
        largest = call.op("And", largest, call.op("Not", call.op("IsNaN", x)))
    return call.op("Or", less, largest)


@elementwise("square")
def square(call: Call, x: str) -> str:
    return call.op("Mul", x, x)


@elementwise("rsqrt")
def rsqrt(call: Call, x: str) -> str:
    return call.op("Reciprocal", call.op("Sqrt", x))


@elementwise("cbrt")
def cbrt(call: Call, x: str) -> str:
    root = call.op("Pow", call.op("Abs", x), call.const(1 / 3))
    return call.op("Mul", call.op("Sign", x), root)


@elementwise("exp2")
def exp2(call: Call, x: str) -> str:
    return call.op("Pow", call.const(2), x)


@elementwise("integer_pow")
def integer_pow(call: Call, x: str) -> str:
    exponent = call.params["y"]
    if exponent == 2:
        return call.op("Mul", x, x)
    return call.op("Pow", x, call.const(exponent))


@elementwise("erfc")
def erfc(call: Call, x: str) -> str:
    return call.op("Sub", call.const(1), call.op("Erf", x))


@elementwise("erf_inv")
def erf_inv(call: Call, x: str) -> str:
    one = call.const(1)
    square_left = call.op("Mul", call.op("Sub", one, x), call.op("Add", one, x))
    w = call.op("Neg", call.op("Log", square_left))
    small = _polynomial(call, call.op("Sub", w, call.const(2.5)), _ERF_INV_SMALL)
    root = call.op("Sqrt", call.op("Max", w, call.const(0)))
    large = _polynomial(call, call.op("Sub", root, call.const(3)), _ERF_INV_LARGE)
    inside = call.op("Less", w, call.const(5))
    found = call.op("Mul", call.op("Where", inside, small, large), x)
    edge = call.op("Equal", call.op("Abs", x), one)
    return call.op("Where", edge, call.op("Mul", x, call.const(np.inf)), found)


def _polynomial(call: Call, x: str, coefficients: tuple[float, ...]) -> str:
    total = call.const(coefficients[0])
    for coefficient in coefficients[1:]:
        total = call.op("Add", call.op("Mul", total, x), call.const(coefficient))
    return total


@elementwise("log1p")
def log1p(call: Call, x: str) -> str:
    # Kahan's: the rounding error of 1 + x is divided out, where x is small enough to matter.
    one = call.const(1)
    u = call.op("Add", one, x)
    log = call.op("Log", u)
    exact = call.op("Div", call.op("Mul", log, x), call.op("Sub", u, one))
    found = call.op("Where", call.op("Less", call.op("Abs", x), one), exact, log)
    return call.op("Where", call.op("Equal", u, one), x, found)


@elementwise("expm1")
def expm1(call: Call, x: str) -> str:
    one = call.const(1)
    u = call.op("Exp", x)
    less = call.op("Sub", u, one)
    exact = call.op("Div", call.op("Mul", less, x), call.op("Log", u))
    found = call.op("Where", call.op("Less", call.op("Abs", x), one), exact, less)
    return call.op("Where", call.op("Equal", u, one), x, found)


@elementwise("atan2")
def atan2(call: Call, y: str, x: str) -> str:
    zero, pi = call.const(0), call.const(np.pi)
    angle = call.op("Atan", call.op("Div", y, x))
    below = call.op("Less", y, zero)
    turn = call.op("Where", below, call.op("Neg", pi), pi)
    half = call.op("Where", below, call.const(-np.pi / 2), call.const(np.pi / 2))
    left = call.op("Where", call.op("Less", x, zero), call.op("Add", angle, turn), angle)
    half = call.op("Where", call.op("Equal", y, zero), zero, half)
    return call.op("Where", call.op("Equal", x, zero), half, left)


@elementwise("round")
def round_(call: Call, x: str) -> str:
    if int(call.params["rounding_method"]) == 1:  # half to even
        return call.op("Round", x)
    up = call.op("Floor", call.op("Add", call.op("Abs", x), call.const(0.5)))
    return call.op("Mul", call.op("Sign", x), up)


@elementwise("is_finite")
def is_finite(call: Call, x: str) -> str:
    return call.op("Not", call.op("Or", call.op("IsInf", x), call.op("IsNaN", x)))


@elementwise("clamp")
def clamp(call: Call, low: str, x: str, high: str) -> str:
    return call.op("Min", call.op("Max", x, low), high)


@elementwise("select_n")
def select_n(call: Call, which: str, *cases: str) -> str:
    if call.dtype(0).kind == "b":
        return where(call, which, cases[-1], cases[0])
    found = cases[-1]
    for i in range(len(cases) - 2, -1, -1):
        found = where(call, call.op("Equal", which, call.const(i)), cases[i], found)
    return found


def where(call: Call, which: str, x: str, y: str) -> str:
    """``Where``, which onnxruntime does not have for bools."""
    if call.out.dtype.kind != "b":
        return call.op("Where", which, x, y)
    return call.op("Or", call.op("And", which, x), call.op("And", call.op("Not", which), y))


@elementwise("convert_element_type")
def convert_element_type(call: Call, x: str) -> str:
    if call.dtype(0) == call.out.dtype:
        return x
    dtype = np.dtype(call.out.dtype)
    if dtype.kind in "iu" and dtype.itemsize < 4 and call.dtype(0).kind == "f":
        # What is too large becomes the largest in JAX, and is cut off by other casts.
        info = np.iinfo(dtype)
        x = call.op("Min", call.op("Max", x, call.const(info.min)), call.const(info.max))
    return call.graph.cast(x, dtype)


@elementwise("stop_gradient", "copy", "copy_p", "reduce_precision", "sharding_constraint")
def same(call: Call, x: str) -> str:
    if call.name == "reduce_precision":
        bits: Any = jnp.finfo(call.dtype(0))  # type: ignore[no-untyped-call]
        if (call.params["exponent_bits"], call.params["mantissa_bits"]) != (bits.nexp, bits.nmant):
            raise call.refuse("a float of fewer bits")
    return x
