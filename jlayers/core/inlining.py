"""A function without anything that hides operations: for programs that read other programs.

How to read this file: ``inlined`` traces a function and computes what was traced. ``_RULES`` says
what becomes of an operation that holds others; all that are not there are computed as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax

from .simple_forms import FORMS, empty, is_empty

R = TypeVar("R")
Values = list[Any]
# The outputs of an equation, from its inputs.
Rule = Callable[[Any, Values], Values]


def inlined(function: Callable[..., R], *args: Any) -> R:
    """``function(*args)``, of whose program simple operations and control flow are left.

    Calls of ``jax.jit``, ``jax.checkpoint``, ``jax.custom_jvp``, ``jax.custom_vjp`` and the like
    become what they call, with derivatives of their own left out; ``lax.platform_dependent``
    becomes its default and ``lax.optimization_barrier`` nothing. ``scan``, ``while_loop``,
    conditionals and ``lax.custom_linear_solve`` stay, with the same done inside them; of a system
    that depends on no array, the solution is what remains. A few operations that other tools lack
    are written as those that they have (``simple_forms``).

    Args:
      function: of pytrees of arrays, to a pytree of arrays.

    >>> import jax, jax.numpy as jnp
    >>> def function(x):
    ...     return jax.jit(jax.nn.relu)(x) + lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos)
    >>> jax.make_jaxpr(lambda x: inlined(function, x))(1.0)
    { lambda ; a:f32[]. let
        b:f32[] = max a 0.0:f32[]
        c:f32[] = cos a
        d:f32[] = add b c
      in (d,) }
    """
    closed, out = jax.make_jaxpr(function, return_shape=True)(*args)
    outputs = _compute(closed, jax.tree.leaves(args))
    result: R = jax.tree.unflatten(jax.tree.structure(out), outputs)
    return result


def _compute(jaxpr: Any, inputs: Values, rules: Mapping[str, Rule] | None = None) -> Values:
    """The outputs of a jaxpr, closed or open, by the rules."""
    found = _RULES if rules is None else rules

    def made(equation: Any, given: Values) -> Values:
        rule = found.get(equation.primitive.name, bound)
        return empty(equation) if is_empty(equation) else rule(equation, given)

    return evaluated(jaxpr, inputs, made)


def evaluated(jaxpr: Any, inputs: Values, made: Rule) -> Values:
    """The outputs of a jaxpr, closed or open, whose equations are computed by ``made``."""
    consts = getattr(jaxpr, "consts", ())
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, inputs, strict=True)

    def value(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for equation in jaxpr.eqns:
        given = [value(atom) for atom in equation.invars]
        values |= zip(equation.outvars, made(equation, given), strict=True)
    return [value(atom) for atom in jaxpr.outvars]


def bound(equation: Any, given: Values) -> Values:
    """The outputs of an equation as it is."""
    primitive = equation.primitive
    outputs = primitive.bind(*given, **primitive.get_bind_params(equation.params))
    return list(outputs) if primitive.multiple_results else [outputs]


def _call(equation: Any, given: Values) -> Values:
    """Whatever calls a function of operations, under the name that its kind has for it."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call"):
        if name in equation.params:
            return _compute(equation.params[name], given)
    raise NotImplementedError(f"{equation.primitive.name} without a program")


# What it is made of; a program does not say its name.
_OF_LOGADDEXP = {"max", "abs", "log1p"}


def _custom(equation: Any, given: Values) -> Values:
    program = equation.params["call_jaxpr"]
    inner = getattr(program, "jaxpr", program)
    if not {inside.primitive.name for inside in inner.eqns} >= _OF_LOGADDEXP:
        return _compute(program, given)
    # Where both are equal, as in softplus(0), JAX's derivatives of max and abs are those of
    # different sides and add up to 0. This maximum's is that of the side of abs.
    return _compute(program, given, {**_RULES, "max": _larger})


def _larger(equation: Any, given: Values) -> Values:
    # One of them may be a number in the program.
    shape = np.shape(given[0]) or np.shape(given[1])
    x, y = (value if np.shape(value) == shape else lax.broadcast(value, shape) for value in given)
    return [lax.select(lax.lt(x, y), y, x)]


def _barrier(equation: Any, given: Values) -> Values:
    return given


def _platform_index(equation: Any, given: Values) -> Values:
    # Its branches are told apart by a number: the one without platforms is the default.
    return [np.int32(list(equation.params["platforms"]).index(None))]


def scanned(equation: Any, given: Values) -> tuple[Values, Values, Values]:
    """What the body of a scan closes over, the first carry, and what is scanned."""
    params = equation.params
    inner = params["jaxpr"].jaxpr
    # How many there are of each kind has other names in other versions of JAX. What is scanned, and
    # what is stacked, has one axis less inside.
    count = _more_axes(equation.invars, inner.invars)
    carry = len(inner.outvars) - _more_axes(equation.outvars, inner.outvars)
    first = len(given) - count
    return given[: first - carry], given[first - carry : first], given[first:]


def _scan(equation: Any, given: Values) -> Values:
    params = equation.params
    own, init, xs = scanned(equation, given)
    carry = len(init)

    def body(before: Values, x: Values) -> tuple[Values, Values]:
        made = _compute(params["jaxpr"], [*own, *before, *x])
        return made[:carry], made[carry:]

    # With something to scan it may be a size that is not known.
    length = None if xs else params["length"]
    options = {name: params[name] for name in ("reverse", "unroll")}
    last, stacked = lax.scan(body, init, xs, length, **options)
    return [*last, *stacked]


def _more_axes(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """How many values have more axes outside of a loop than inside it."""
    return sum(len(a.aval.shape) > len(b.aval.shape) for a, b in zip(outside, inside, strict=True))


def _while(equation: Any, given: Values) -> Values:
    params = equation.params
    split = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    of_cond, of_body, init = given[: split[0]], given[split[0] : split[1]], given[split[1] :]

    def going_on(carry: Values) -> Any:
        return _compute(params["cond_jaxpr"], [*of_cond, *carry])[0]

    def body(carry: Values) -> Values:
        return _compute(params["body_jaxpr"], [*of_body, *carry])

    return lax.while_loop(going_on, body, init)


def _cond(equation: Any, given: Values) -> Values:
    index, *operands = given
    branches = [_branch(branch) for branch in equation.params["branches"]]
    # Known where it was a platform: one branch is what runs.
    if isinstance(index, np.generic | np.ndarray):
        return branches[int(np.clip(index, 0, len(branches) - 1))](*operands)
    if len(branches) == 2:
        return list(lax.cond(index.astype(bool), branches[1], branches[0], *operands))
    return list(lax.switch(index, branches, *operands))


def _branch(jaxpr: Any) -> Callable[..., Values]:
    return lambda *operands: _compute(jaxpr, list(operands))


def _solve(equation: Any, given: Values) -> Values:
    programs, lengths = equation.params["jaxprs"], equation.params["const_lengths"]
    consts, rest = [], given
    for length in lengths:
        consts.append(rest[:length])
        rest = rest[length:]
    # A system that depends on no values is linear in the right-hand side alone.
    if not lengths.matvec:
        return _compute(programs.solve, [*consts[2], *rest])
    # Otherwise its solution need not be differentiable in them, as JAX's own is not: it stays.
    system, _, solution, transposed_solution = (
        functools.partial(_with_consts, program, own)
        for program, own in zip(programs, consts, strict=True)
    )

    def transpose_solve(_: Any, right: Values) -> Values:
        return transposed_solution(right)

    symmetric = programs.vecmat is programs.matvec
    known = not symmetric and programs.transpose_solve is not None
    result: Values = lax.custom_linear_solve(
        system,
        rest,
        lambda _, right: solution(right),
        transpose_solve if known else None,
        symmetric,
    )
    return result


def _with_consts(program: Any, consts: Values, inputs: Values) -> Values:
    return _compute(program, [*consts, *inputs])


_CALLS = (
    *("jit", "pjit", "closed_call", "core_call", "custom_lin", "checkpoint", "remat2", "remat"),
    *("custom_vjp_call", "custom_vjp_call_jaxpr", "custom_vmap_call"),
)
_RULES: dict[str, Rule] = {
    **FORMS,
    **dict.fromkeys(_CALLS, _call),
    "cond": _cond,
    "custom_jvp_call": _custom,
    "custom_linear_solve": _solve,
    "linear_solve": _solve,
    "optimization_barrier": _barrier,
    "platform_index": _platform_index,
    "scan": _scan,
    "while": _while,
}
