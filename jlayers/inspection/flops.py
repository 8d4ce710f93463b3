"""FLOPs of a function, counted on its jaxpr: right under scan, vmap and remat."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from ..base.types import PyTree
from ..core.dtypes import is_symbolic

# JAX has no public types for these.
Jaxpr: TypeAlias = Any
Equation: TypeAlias = Any

# Moving and reshaping data is free; so is whatever returns integers or bools (``_size``).
_FREE = frozenset(
    "broadcast_in_dim reshape transpose squeeze expand_dims slice dynamic_slice "  # noqa: SIM905
    "dynamic_update_slice gather concatenate split pad rev copy copy_p device_put name select_n "
    "convert_element_type bitcast_convert_type stop_gradient optimization_barrier pvary "
    "sharding_constraint scatter sort iota empty".split()
)
# One operation for each number of the input.
_REDUCTIONS = ("reduce_", "cum", "scatter", "select_and_scatter")


def flops(function: Callable[..., PyTree], *specs: PyTree) -> int:
    """Floating-point operations of ``function``: a multiply-add is two, an elementwise one is one.

    The count is of the program as written, before XLA's optimisations: a scan counts its body
    once for each step, a ``while`` loop of unknown length once, a ``cond`` its most
    expensive branch. Data movement, comparisons and integer arithmetic are free.

    Args:
      function: a function of arrays.
      *specs: arrays or ``jax.ShapeDtypeStruct``s, as the function is called with.

    >>> import jlayers as jl
    >>> flops(lambda x, w: x @ w, jl.spec((32, 784)), jl.spec((784, 10)))
    501760
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*specs).jaxpr)


def _of_jaxpr(jaxpr: Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Equation) -> int:
    name, params = equation.primitive.name, equation.params
    inner = list(_inner_jaxprs(params))
    if name == "cond":
        return _largest([_of_jaxpr(jaxpr) for jaxpr in inner])
    if name == "scan":
        length: int = params["length"]
        return length * sum(map(_of_jaxpr, inner))
    if name == "pallas_call":
        grid: tuple[int, ...] = params["grid_mapping"].grid
        return math.prod(grid) * int(sum(map(_of_jaxpr, inner)))
    if inner and not name.startswith(("scatter", "reduce_window", "select_and_scatter")):
        return sum(map(_of_jaxpr, inner))
    out: int = sum(_size(v.aval) for v in equation.outvars)
    if name in _FREE or not out:
        return 0
    if name == "dot_general":
        (contract, _), _ = params["dimension_numbers"]
        shape: tuple[int, ...] = equation.invars[0].aval.shape
        contracted: int = math.prod(shape[axis] for axis in contract)
        return 2 * out * contracted
    if name == "conv_general_dilated":
        kernel: tuple[int, ...] = equation.invars[1].aval.shape
        features = kernel[params["dimension_numbers"].rhs_spec[0]]
        groups: int = params["batch_group_count"]
        sums: int = 2 * out * math.prod(kernel) // features
        return sums // groups
    if name.startswith("reduce_window"):
        window: tuple[int, ...] = params["window_dimensions"]
        return out * math.prod(window)
    if name.startswith(_REDUCTIONS):
        return _largest([_size(v.aval) for v in equation.invars])
    return out


def _largest(counts: Sequence[int]) -> int:
    """The largest; the first of symbolic ones."""
    return counts[0] if is_symbolic(*counts) else max(counts)


def _inner_jaxprs(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    # custom_jvp and custom_vjp hold their rules as functions, which are not run; the rest are
    # jaxprs, closed or open, alone or in tuples.
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item


def _size(aval: Any) -> int:
    """How many floating numbers."""
    if not jnp.issubdtype(getattr(aval, "dtype", bool), jnp.inexact):
        return 0
    # A symbolic size makes a symbolic count.
    return math.prod(aval.shape)
