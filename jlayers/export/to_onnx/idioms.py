"""Functions that are written in several primitives, and have an operator: softmax, means, GELU.

How to read this file: ``find`` looks at the last equation of an idiom and goes back through what
made its operands. The equations before it are then not needed, unless something else reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .call import Call
from .sizes import is_int


class Idiom(NamedTuple):
    """What to write in place of an equation.

    Attributes:
      inputs: the variables that are read.
      emit: writes it.
    """

    inputs: list[Any]
    emit: Callable[[Call], str]


Made = Mapping[Any, Any]


def find(jaxpr: Any) -> dict[int, Idiom]:
    """The idioms of a jaxpr, by the place of their last equation."""
    made = {var: equation for equation in jaxpr.eqns for var in equation.outvars}
    found = {}
    for i, equation in enumerate(jaxpr.eqns):
        for look in _LOOKS.get(equation.primitive.name, ()):
            idiom = look(equation, made)
            if idiom is not None:
                found[i] = idiom
                break
    return found


def _is_literal(atom: Any) -> bool:
    return hasattr(atom, "val")


def _from(atom: Any, name: str, made: Made) -> Any:
    """The equation that made a variable, if its primitive has this name."""
    equation = None if _is_literal(atom) else made.get(atom)
    return equation if equation is not None and equation.primitive.name == name else None


def _is(atom: Any, number: float) -> bool:
    """Whether an operand is a number, as float32 has it."""
    if not _is_literal(atom) or np.ndim(atom.val):
        return False
    value = float(atom.val)
    return value == number or math.isclose(value, number, rel_tol=1e-6)


def _other(equation: Any, number: float) -> Any:
    """The operand beside a number."""
    x, y = equation.invars
    return y if _is(x, number) else x if _is(y, number) else None


def _through(atom: Any, made: Made, *names: str) -> Any:
    """The operand of one-operand equations, back through all of these names."""
    equation = None if _is_literal(atom) else made.get(atom)
    while equation is not None and equation.primitive.name in names:
        atom = equation.invars[0]
        equation = None if _is_literal(atom) else made.get(atom)
    return atom


def _softmax(equation: Any, made: Made) -> Idiom | None:
    """``exp(x - max(x)) / sum(exp(x - max(x)))`` over one axis."""
    above, below = equation.invars
    exp = _from(above, "exp", made)
    spread = _from(below, "broadcast_in_dim", made)
    total = spread and _from(spread.invars[0], "reduce_sum", made)
    if exp is None or total is None or total.invars[0] is not above:
        return None
    less = _from(exp.invars[0], "sub", made)
    if less is None or len(total.params["axes"]) != 1:
        return None
    x, top = less.invars
    (axis,) = total.params["axes"]
    if not _is_largest(top, x, axis, made) or not _kept(spread, x, (axis,)):
        return None
    if tuple(x.aval.shape) != tuple(equation.outvars[0].aval.shape):
        return None
    return Idiom([x], lambda call: call.op("Softmax", call.arg(0), axis=axis))


def _log_softmax(equation: Any, made: Made) -> Idiom | None:
    """``x - max(x) - log(sum(exp(x - max(x))))`` over one axis."""
    left, right = equation.invars
    less, log = _from(left, "sub", made), _from(right, "log", made)
    spread = log and _from(log.invars[0], "broadcast_in_dim", made)
    total = spread and _from(spread.invars[0], "reduce_sum", made)
    exp = total and _from(total.invars[0], "exp", made)
    if not less or not exp or exp.invars[0] is not left or len(total.params["axes"]) != 1:
        return None
    x, top = less.invars
    (axis,) = total.params["axes"]
    if not _is_largest(top, x, axis, made) or not _kept(spread, x, (axis,)):
        return None
    return Idiom([x], lambda call: call.op("LogSoftmax", call.arg(0), axis=axis))


def _is_largest(atom: Any, x: Any, axis: int, made: Made) -> bool:
    """Whether a variable is the largest of ``x`` along an axis."""
    # Along another axis, of a square array say, it would be another function.
    spread = _from(_through(atom, made, "stop_gradient"), "broadcast_in_dim", made)
    if spread is None or not _kept(spread, x, (axis,)):
        return False
    at = _through(spread.invars[0], made, "stop_gradient")
    bounded = _from(at, "max", made)
    largest = _from(_other(bounded, -np.inf) if bounded else at, "reduce_max", made)
    if largest is None or largest.invars[0] is not x or _is_literal(x):
        return False
    return bool(largest.params["axes"] == (axis,) and x.aval.dtype.kind == "f")


def _kept(spread: Any, x: Any, axes: tuple[int, ...]) -> bool:
    """Whether a broadcast gives axes of ``x`` that were reduced a size of 1, in their places."""
    shape = spread.outvars[0].aval.shape
    others = tuple(i for i in range(len(x.aval.shape)) if i not in axes)
    if len(shape) != len(x.aval.shape) or tuple(spread.params["broadcast_dimensions"]) != others:
        return False
    return all(is_int(shape[axis]) and shape[axis] == 1 for axis in axes)


def _mean(equation: Any, made: Made) -> Idiom | None:
    """A sum over axes, by how many elements they have."""
    spread = _from(equation.invars[0], "broadcast_in_dim", made)
    total = _from(spread.invars[0] if spread else equation.invars[0], "reduce_sum", made)
    if total is None or equation.outvars[0].aval.dtype.kind != "f":
        return None
    x, axes = total.invars[0], tuple(total.params["axes"])
    sizes = [x.aval.shape[axis] for axis in axes]
    if not axes or not all(map(is_int, sizes)) or _is_literal(x) or 0 in sizes:
        return None
    if not _is(equation.invars[1], math.prod(sizes)) or (spread and not _kept(spread, x, axes)):
        return None
    keep = int(spread is not None)
    return Idiom([x], lambda call: call.graph.reduce("ReduceMean", call.arg(0), axes, keep))


def _gelu(equation: Any, made: Made) -> Idiom | None:
    """``x * 0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))``."""
    x, right = equation.invars
    half = _from(right, "mul", made)
    one = half and _from(_other(half, 0.5), "add", made)
    tanh = one and _from(_other(one, 1.0), "tanh", made)
    scaled = tanh and _from(tanh.invars[0], "mul", made)
    inner = scaled and _from(_other(scaled, math.sqrt(2 / math.pi)), "add", made)
    if not inner or inner.invars[0] is not x:
        return None
    cubed = _from(inner.invars[1], "mul", made)
    power = cubed and _from(_other(cubed, 0.044715), "integer_pow", made)
    if not power or power.params["y"] != 3 or power.invars[0] is not x or _is_literal(x):
        return None
    return Idiom([x], lambda call: call.op("Gelu", call.arg(0), approximate="tanh"))


def _gelu_exact(equation: Any, made: Made) -> Idiom | None:
    """``0.5 * x * erfc(-x / sqrt(2))``."""
    left, right = equation.invars
    half, erfc = _from(left, "mul", made), _from(right, "erfc", made)
    x = half and _other(half, 0.5)
    scaled = erfc and _from(erfc.invars[0], "mul", made)
    negative = scaled and _from(_other(scaled, math.sqrt(0.5)), "neg", made)
    if not half or not negative or x is None or negative.invars[0] is not x or _is_literal(x):
        return None
    return Idiom([x], lambda call: call.op("Gelu", call.arg(0)))


_LOOKS: dict[str, tuple[Callable[[Any, Made], Idiom | None], ...]] = {
    "div": (_softmax, _mean),
    "mul": (_gelu, _gelu_exact),
    "sub": (_log_softmax,),
}
