"""The dtype in which the products of a function are summed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from .inlining import Rule, Values, bound, evaluated, inlined, scanned

R = TypeVar("R")
_PRODUCTS = ("dot_general", "conv_general_dilated")


def accumulating(dtype: DTypeLike, function: Callable[..., R], *args: Any) -> R:
    """``function(*args)`` with matrix products and convolutions summed in a dtype.

    Those of narrower floats are computed with ``preferred_element_type=dtype`` and rounded to the
    dtype that they had, in loops too; so are those of the gradient. A function with no such product
    is called as it is; of another one, ``inlined`` says what is left.

    Args:
      function: of pytrees of arrays, to a pytree of arrays.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.ones((2, 3), jnp.bfloat16)
    >>> program = jax.make_jaxpr(lambda x: accumulating("float32", lambda x: x @ x.T, x))(x)
    >>> [equation.outvars[0].aval.dtype.name for equation in program.eqns]
    ['bfloat16', 'float32', 'bfloat16']
    """
    simple = functools.partial(inlined, function)
    closed, out = jax.make_jaxpr(simple, return_shape=True)(*args)
    wide = jnp.dtype(dtype)
    if not _has_narrow(closed.jaxpr, wide):
        return function(*args)
    outputs = evaluated(closed, jax.tree.leaves(args), _rules(wide))
    result: R = jax.tree.unflatten(jax.tree.structure(out), outputs)
    return result


def is_narrow(primitive: str, made: DTypeLike, dtype: DTypeLike) -> bool:
    """Whether an operation that makes ``made`` is a product that is summed in less than ``dtype``.

    >>> is_narrow("dot_general", "bfloat16", "float32"), is_narrow("add", "bfloat16", "float32")
    (True, False)
    """
    narrow = jnp.dtype(made).itemsize < jnp.dtype(dtype).itemsize
    return primitive in _PRODUCTS and bool(jnp.issubdtype(made, jnp.floating)) and narrow


def _is_narrow(equation: Any, wide: Any) -> bool:
    return is_narrow(equation.primitive.name, equation.outvars[0].aval.dtype, wide)


def _has_narrow(jaxpr: Any, wide: Any) -> bool:
    return any(
        _is_narrow(equation, wide)
        or any(_has_narrow(inner, wide) for inner in _inside(equation.params))
        for equation in jaxpr.eqns
    )


def _inside(params: dict[str, Any]) -> list[Any]:
    entries = [
        entry
        for param in params.values()
        for entry in (param if isinstance(param, tuple | list) else (param,))
    ]
    inner = [getattr(entry, "jaxpr", entry) for entry in entries]
    return [jaxpr for jaxpr in inner if hasattr(jaxpr, "eqns")]


def _rules(wide: Any) -> Rule:
    def made(equation: Any, given: Values) -> Values:
        name = equation.primitive.name
        if _is_narrow(equation, wide):
            return _widened(equation, given, wide)
        if name not in _LOOPS or not any(
            _has_narrow(one, wide) for one in _inside(equation.params)
        ):
            return bound(equation, given)
        return _LOOPS[name](equation, given, made)

    return made


def _widened(equation: Any, given: Values, wide: Any) -> Values:
    params = equation.params | {"preferred_element_type": wide}
    total = equation.primitive.bind(*given, **equation.primitive.get_bind_params(params))
    return [lax.convert_element_type(total, equation.outvars[0].aval.dtype)]


def _scan(equation: Any, given: Values, made: Rule) -> Values:
    params = equation.params
    own, init, xs = scanned(equation, given)

    def body(before: Values, x: Values) -> tuple[Values, Values]:
        after = evaluated(params["jaxpr"], [*own, *before, *x], made)
        return after[: len(init)], after[len(init) :]

    length = None if xs else params["length"]
    options = {name: params[name] for name in ("reverse", "unroll")}
    last, stacked = lax.scan(body, init, xs, length, **options)
    return [*last, *stacked]


def _while(equation: Any, given: Values, made: Rule) -> Values:
    params = equation.params
    split = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    of_cond, of_body, init = given[: split[0]], given[split[0] : split[1]], given[split[1] :]
    return list(
        lax.while_loop(
            lambda carry: evaluated(params["cond_jaxpr"], [*of_cond, *carry], made)[0],
            lambda carry: evaluated(params["body_jaxpr"], [*of_body, *carry], made),
            init,
        )
    )


def _cond(equation: Any, given: Values, made: Rule) -> Values:
    index, *operands = given

    def branch(jaxpr: Any) -> Callable[..., Values]:
        return lambda *operands: evaluated(jaxpr, list(operands), made)

    return list(lax.switch(index, [branch(one) for one in equation.params["branches"]], *operands))


_LOOPS: dict[str, Callable[[Any, Values, Rule], Values]] = {
    "cond": _cond,
    "scan": _scan,
    "while": _while,
}
