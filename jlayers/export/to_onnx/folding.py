"""What does not depend on the inputs is worked out when the graph is written.

So BatchNorm's statistics become a scale and a shift, a masked kernel is masked, and weights that
are made orthogonal are so in the file. What would become much larger than it is, is left to run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .call import ELEMENTWISE, joined
from .sizes import is_int, is_static
from .values import Known, Value

# Above this, results must not be larger than operands.
_SIZE = 65_536
# Those that look into a body are folded inside it; the others have a value of their own.
_CALLS = "jit pjit closed_call core_call remat2 checkpoint custom_jvp_call custom_vjp_call"
_MORE = "custom_vjp_call_jaxpr call_hi_primitive custom_linear_solve"
_OTHERS = f"{_MORE} cond dim_as_value platform_index iota"
_LEFT = frozenset(f"{_CALLS} {_OTHERS} broadcast_in_dim".split())
_LOOPS = frozenset(("scan", "while"))
# In NumPy, which compiles nothing.
_NUMPY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "sqrt": np.sqrt,
    "square": np.square,
    "stop_gradient": np.asarray,
    "copy": np.asarray,
}


def folded(equation: Any, given: list[Value]) -> list[Value] | None:
    """The results of an equation whose operands are known; None where it has to run."""
    name = equation.primitive.name
    if all(map(_is_empty, (var.aval for var in equation.outvars))):
        # Without elements, and of few axes: runtimes differ on the rest.
        return [Known(_empty(var.aval)) for var in equation.outvars]
    if name in _LEFT or "random" in name or not given or equation.effects:
        return None
    known = [value for value in given if isinstance(value, Known)]
    if len(known) < len(given):
        return None
    if name in _LOOPS and not all(map(_sized, _bodies(equation))):
        return None
    outs = [var.aval for var in equation.outvars]
    arrays = [value.array for value in known]
    hints = {value.hint for value in known if value.hint}
    hint = hints.pop() if len(hints) == 1 else ""
    if name in ELEMENTWISE:
        shape = joined([array.shape for array in arrays])
        if not _worth(int(np.prod(shape)), arrays):
            return None
        if name in _NUMPY:
            with np.errstate(all="ignore"):
                return [Known(_as(_NUMPY[name](*arrays), outs[0]), hint)]
        arrays = [np.broadcast_to(array, shape) for array in arrays]
    else:
        shapes = [tuple(atom.aval.shape) for atom in equation.invars]
        if not all(map(is_static, (*shapes, *(out.shape for out in outs)))):
            return None
        if not _worth(sum(int(np.prod(out.shape)) for out in outs), arrays):
            return None
        arrays = [np.broadcast_to(a, shape) for a, shape in zip(arrays, shapes, strict=True)]
        if name == "transpose":
            return [Known(np.transpose(arrays[0], equation.params["permutation"]), hint)]
        if name in ("reshape", "squeeze"):
            return [Known(arrays[0].reshape(outs[0].shape), hint)]
    # From integers: between floats, JAX rounds as its own arrays do.
    if name == "convert_element_type" and arrays[0].dtype.kind in "biu":
        return [Known(_as(arrays[0], outs[0]), hint)]
    params = equation.primitive.get_bind_params(equation.params)
    # Some primitives take JAX's arrays alone.
    operands = [jax.numpy.asarray(array) for array in arrays]
    made = equation.primitive.bind(*operands, **params)
    results = made if equation.primitive.multiple_results else [made]
    return [Known(np.asarray(result), hint) for result in results]


def _bodies(equation: Any) -> list[Any]:
    """The jaxprs inside an equation."""
    found = [
        getattr(value, "jaxpr", value)
        for param in equation.params.values()
        for value in (param if isinstance(param, tuple) else (param,))
    ]
    return [program for program in found if hasattr(program, "eqns")]


def _sized(jaxpr: Any) -> bool:
    """Whether every array in a loop's body has sizes that are numbers."""
    return all(
        all(is_static(tuple(var.aval.shape)) for var in equation.outvars)
        and all(map(_sized, _bodies(equation)))
        for equation in jaxpr.eqns
    )


def _is_empty(aval: Any) -> bool:
    return any(is_int(dim) and dim == 0 for dim in aval.shape)


def _empty(aval: Any) -> np.ndarray:
    return np.zeros([0 if is_int(dim) and dim == 0 else 1 for dim in aval.shape], aval.dtype)


def _worth(size: int, arrays: list[np.ndarray]) -> bool:
    return size <= max(_SIZE, *(array.size for array in arrays))


def _as(array: Any, aval: Any) -> np.ndarray:
    return np.asarray(array, np.dtype(aval.dtype))
