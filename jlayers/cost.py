"""FLOPs of a function, counted on its jaxpr: right under scan, vmap and remat."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

from .specs import PyTree

# Moving, shaping, comparing or making numbers is no floating-point arithmetic.
_FREE = set(
    # moving and shaping
    "broadcast_in_dim reshape transpose squeeze expand_dims slice dynamic_slice "  # noqa: SIM905
    "dynamic_update_slice gather concatenate split pad rev copy copy_p device_put name "
    "convert_element_type bitcast_convert_type stop_gradient optimization_barrier pvary "
    "sharding_constraint scatter sort iota empty "
    # comparing and choosing
    "select_n eq ne lt le gt ge and or not xor is_finite argmax argmin reduce_and reduce_or "
    # random bits
    "shift_left shift_right_logical shift_right_arithmetic population_count clz threefry2x32 "
    "random_bits random_fold_in random_split random_wrap random_unwrap random_seed random_clone "
    "random_gamma".split()
)
# One operation for each number that goes in.
_REDUCTIONS = ("reduce_", "cum", "scatter", "select_and_scatter")


def flops(function: Callable[..., Any], *specs: PyTree) -> int:
    """Floating-point operations of ``function``: a multiply-add is two, an elementwise one is one.

    The count is of the program as written, before XLA's optimisations: a scan counts its body
    once for each step, a ``while`` loop of unknown length once, a ``cond`` its dearest branch.
    Data movement, comparisons and integer arithmetic of random bits are free.

    Args:
      function: a function of arrays.
      *specs: arrays or ``jax.ShapeDtypeStruct``s, as it is called.

    >>> import jlayers as jl
    >>> flops(lambda x, w: x @ w, jl.spec((32, 784)), jl.spec((784, 10)))
    501760
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*specs).jaxpr)


def _of_jaxpr(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    inner = list(_inner_jaxprs(params))
    if name == "cond":
        return max(map(_of_jaxpr, inner))
    if name == "scan":
        return int(params["length"]) * sum(map(_of_jaxpr, inner))
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid) * sum(map(_of_jaxpr, inner))
    if inner and not name.startswith(("scatter", "reduce_window", "select_and_scatter")):
        return sum(map(_of_jaxpr, inner))
    if name in _FREE:
        return 0
    out = sum(_size(v) for v in equation.outvars)
    if name == "dot_general":
        (contract, _), _ = params["dimension_numbers"]
        return 2 * out * math.prod(equation.invars[0].aval.shape[axis] for axis in contract)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * out * math.prod(kernel) // features // params["batch_group_count"]
    if name.startswith("reduce_window"):
        return out * math.prod(params["window_dimensions"])
    if name.startswith(_REDUCTIONS):
        return max(_size(v) for v in equation.invars)
    return out


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    # custom_jvp and custom_vjp hold their rules as functions, which are not run; the rest are
    # jaxprs, closed or open, alone or in tuples.
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape) if hasattr(variable.aval, "shape") else 0
