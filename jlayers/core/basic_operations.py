"""A function in a small set of operations, for readers that know few of them.

How to read this file: ``in_basic_operations`` traces a function without anything that hides
operations and computes what was traced. ``_FORMS`` says how an operation is written by others; all
that are not there are computed as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax

from . import basic_convolutions, basic_forms
from .dtypes import is_symbolic
from .inlining import Rule, Values, bound, evaluated, inlined, scanned

R = TypeVar("R")


def in_basic_operations(function: Callable[..., R], *args: Any) -> R:
    """``inlined``, in about forty operations and without loops of known length.

    ``scan``, dilated and one-dimensional convolutions, padding, gathers of rows, ``cumsum``,
    ``top_k``, ``iota`` and others (``_FORMS``) are written by sums, products, comparisons, slices
    and convolutions of images. What has no such form stays.

    Args:
      function: of pytrees of arrays, to a pytree of arrays.

    >>> import jax, jax.numpy as jnp
    >>> program = jax.make_jaxpr(lambda x: in_basic_operations(jnp.flip, x))(jnp.ones(2))
    >>> [equation.primitive.name for equation in program.eqns]
    ['slice', 'slice', 'concatenate']
    """
    plain = functools.partial(inlined, function)
    closed, out = jax.make_jaxpr(plain, return_shape=True)(*args)
    outputs = evaluated(closed, jax.tree.leaves(args), _made)
    result: R = jax.tree.unflatten(jax.tree.structure(out), outputs)
    return result


def _made(equation: Any, given: Values) -> Values:
    # Places in loops, which are numbers once the loop is unrolled.
    small = all(
        len(out.aval.shape) < 2
        and not is_symbolic(*out.aval.shape)
        and isinstance(out.aval.dtype, np.dtype)
        for out in equation.outvars
    )
    if given and small and not any(isinstance(value, jax.Array) for value in given):
        with jax.ensure_compile_time_eval():
            return [np.asarray(output) for output in bound(equation, given)]
    return _FORMS.get(equation.primitive.name, bound)(equation, given)


def _unrolled(equation: Any, given: Values) -> Values:
    params = equation.params
    length = params["length"]
    own, carry, xs = scanned(equation, given)
    stacked = equation.outvars[len(carry) :]
    # Nothing to join, or a number of steps that is not known.
    if is_symbolic(length) or length == 0:
        return bound(equation, given)
    steps: list[Values] = []
    for step in reversed(range(length)) if params["reverse"] else range(length):
        here = [lax.index_in_dim(x, step, keepdims=False) for x in xs]
        made = evaluated(params["jaxpr"], [*own, *carry, *here], _made)
        carry = made[: len(carry)]
        steps.append(made[len(carry) :])
    if params["reverse"]:
        steps.reverse()
    joined = [
        lax.concatenate([lax.broadcast(y, (1,)) for y in outputs], 0)
        for outputs in zip(*steps, strict=True)
    ]
    return [*carry, *joined] if stacked else carry


_FORMS: dict[str, Rule] = {
    **basic_forms.FORMS,
    "conv_general_dilated": basic_convolutions.convolution,
    "scan": _unrolled,
}
