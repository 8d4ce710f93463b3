"""Rules for programs inside programs: calls, branches and loops.

How to read this file: calls walk the inner program. A loop is walked until what is known of its
carry no longer changes. While a scan walks over the steps they are ``hidden`` in the values of its
body: in the value of one pass, not in its shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax

from .combine import (
    LOSES_ROWS,
    LOSES_STEPS,
    READS_SIZE,
    meet,
    mixed,
    unknown,
)
from .domain import (
    NO_SIZES,
    NOTHING,
    PLAIN,
    ROWS,
    STEPS,
    Axis,
    Pair,
    Value,
    fresh,
    length,
    plain,
    plain_axes,
    varies,
)
from .equation import Differs, Equation, Rules, inner, shapes

# The name of a jitted function that stands for what has been judged by itself.
OPAQUE = "jlayers_opaque"
_CARRIES = "carries from step to step"
_CARRIES_ROWS = "carries from row to row of the batch"
# A carry changes by flags that only go up and a window that only grows; after as many rounds its
# window grows to infinity at once.
_PATIENCE = 4
_ROUNDS = 12


def call(equation: Equation, arguments: list[Value]) -> list[Value]:
    """A program with the equation's operands as its arguments.

    What is called by a name that begins with ``OPAQUE`` is not looked into: its results are as from
    outside. Without operands they are constants, of which every element may be another.
    """
    if all(str(name).startswith(OPAQUE) for name in equation.param("name")):
        if not arguments:
            return [Value(plain_axes(shape)) for shape in equation.results]
        if equation.sizes == NO_SIZES:
            return unknown(equation, arguments)
        return [fresh(shape, equation.sizes) for shape in equation.results]
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call", "callee"):
        first, second = equation.param(name)
        if first is not None and second is not None:
            if len(inner(first).invars) != len(arguments):
                return unknown(equation, arguments)
            return equation.walk((first, second), arguments)
    return unknown(equation, arguments)


def custom_linear_solve(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Its ``solve``, with the constants that belong to it."""
    counts = equation.fixed("const_lengths")
    programs = tuple(program.solve for program in equation.param("jaxprs"))
    start = counts.matvec + counts.vecmat
    constants = arguments[start : start + counts.solve]
    right = arguments[start + counts.solve + counts.transpose_solve :]
    # The other programs are what its derivatives and checks use; they depend on no more.
    return equation.walk((programs[0], programs[1]), [*constants, *right])


def expandable(equation: Equation, arguments: list[Value]) -> list[Value]:
    """An operation that JAX 0.12 keeps whole, and that can say what it is made of."""
    traced = []
    for params, avals in zip(equation.params, equation.avals, strict=True):
        operation = next((p for p in params.values() if hasattr(p, "expand")), None)
        if operation is None:
            return unknown(equation, arguments)
        specs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
        traced.append(jax.make_jaxpr(operation.expand)(*specs))
    return equation.walk((traced[0], traced[1]), arguments)


def cond(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Any of the branches, with the index as one more operand."""
    index, operands = arguments[0], arguments[1:]
    first, second = equation.param("branches")
    if len(first) != len(second):
        raise Differs("branches")
    branches = [equation.walk(pair, operands) for pair in zip(first, second, strict=True)]
    return [
        meet([index, *results], shape, equation)
        for shape, *results in zip(equation.results, *branches, strict=True)
    ]


def while_(equation: Equation, arguments: list[Value]) -> list[Value]:
    """The carry after any number of passes, with the test as one more operand."""
    first, second = equation.fixed("cond_nconsts"), equation.fixed("body_nconsts")
    tested, used = arguments[:first], arguments[first : first + second]
    carry = list(arguments[first + second :])
    body, test = equation.param("body_jaxpr"), equation.param("cond_jaxpr")
    kept = _kept(body[0], second, len(carry))
    for round_ in range(_ROUNDS):
        inside = [
            value if keep else value._replace(known=NOTHING)
            for value, keep in zip(carry, kept, strict=True)
        ]
        results = equation.walk((body[0], body[1]), [*used, *inside])
        (goes_on,) = equation.walk((test[0], test[1]), [*tested, *inside])
        joined = _joined(
            carry,
            [
                old if keep else meet([new, _beside(goes_on, len(shape))], shape, equation)
                for old, new, keep, shape in zip(
                    carry, results, kept, equation.results, strict=True
                )
            ],
            equation,
            round_,
        )
        if _same(joined, carry):
            return carry
        carry = joined
    return unknown(equation, arguments)


def _beside(test: Value, rank: int) -> Value:
    """A test of a loop under vmap has the batch's dimensions, which are in front in the carry.

    Each element of the batch goes on for as long as its own test says.
    """
    return test._replace(axes=(*test.axes, *((),) * (rank - len(test.axes))))


def scan(equation: Equation, arguments: list[Value]) -> list[Value]:
    """Once for each element of what is scanned, which loses its first dimension inside."""
    first, second = equation.param("jaxpr")
    passes: Pair = equation.param("length")
    reverse = bool(equation.fixed("reverse"))
    body = shapes(inner(first).invars, inner(second).invars)
    results = shapes(inner(first).outvars, inner(second).outvars)
    # JAX 0.12 has no count of the carry among the public parameters.
    scanned = sum(len(a) > len(b) for a, b in zip(equation.operands, body, strict=True))
    carried = sum(len(a) == len(b) for a, b in zip(equation.results, results, strict=True))
    start = len(arguments) - scanned
    constants, carry = arguments[: start - carried], list(arguments[start - carried : start])
    loop = equation.new_loop()
    walked = _walked(arguments[start:])
    if walked is None:
        return unknown(equation, arguments)
    elements = [_element(value, loop) for value in arguments[start:]]
    kept = _kept(first, len(constants), carried)
    outputs: list[Value] = []
    for round_ in range(_ROUNDS):
        inside = [_in_pass(value, keep, loop) for value, keep in zip(carry, kept, strict=True)]
        outputs = equation.walk((first, second), [*constants, *inside, *elements])
        after = [
            old if keep else _next(new, loop, reverse, equation)
            for old, new, keep in zip(carry, outputs, kept, strict=False)
        ]
        joined = _joined(carry, after, equation, round_)
        if _same(joined, carry):
            break
        carry = joined
    else:
        return unknown(equation, arguments)
    final = [
        _last(value, keep, loop, passes, equation) for value, keep in zip(carry, kept, strict=True)
    ]
    stacked = [_stacked(value, loop, passes, walked) for value in outputs[carried:]]
    return [*final, *stacked]


def _walked(scanned: Sequence[Value]) -> Axis | None:
    """The dimension with rows or steps that is walked over, () for none, None for several."""
    found = {
        value.axes[0]
        for value in scanned
        if value.window is not None and any(factor.kind != PLAIN for factor in value.axes[0])
    }
    if len(found) > 1:
        return None
    return found.pop() if found else ()


def _element(value: Value, loop: int) -> Value:
    axis, axes = value.axes[0], value.axes[1:]
    if value.window is None:
        same = all(factor.same for factor in axis)
        loops = value.loops if same else value.loops | {loop}
        return value._replace(axes=axes, loops=loops, known=NOTHING)
    hidden = {(factor.kind, loop) for factor in axis if factor.kind != PLAIN}
    return value._replace(axes=axes, hidden=value.hidden | hidden, known=NOTHING)


def _in_pass(value: Value, keep: bool, loop: int) -> Value:
    """The carry as a pass sees it."""
    if keep:
        return value
    if value.window is None:
        value = value._replace(loops=value.loops | {loop})
    return value._replace(known=NOTHING)


def _next(value: Value, loop: int, reverse: bool, equation: Equation) -> Value:
    """What a pass leaves, as the next pass sees it."""
    if value.window is None:
        return value
    if (STEPS, loop) in value.hidden:
        low, high = value.window
        window = (low + 1, math.inf) if reverse else (-math.inf, high - 1)
        value = value._replace(window=window, steps=value.steps or equation.cause(_CARRIES))
    if (ROWS, loop) in value.hidden:
        value = mixed(value, ROWS, equation.cause(_CARRIES_ROWS))
    return value


def _last(value: Value, keep: bool, loop: int, passes: Pair, equation: Equation) -> Value:
    """The carry after all passes."""
    entered = {kind for kind, other in value.hidden if other == loop}
    for kind, reason in ((STEPS, LOSES_STEPS), (ROWS, LOSES_ROWS)):
        if kind in entered:
            value = mixed(value, kind, equation.cause(reason))
    if not (keep or entered) and varies(passes):
        value = value._replace(place=value.place or equation.cause(READS_SIZE))
    return _outside(value, loop)


def _outside(value: Value, loop: int) -> Value:
    hidden = frozenset(pair for pair in value.hidden if pair[1] != loop)
    return value._replace(hidden=hidden, loops=value.loops - {loop}, known=NOTHING)


def _stacked(value: Value, loop: int, passes: Pair, walked: Axis) -> Value:
    """An output of all passes."""
    if any(other == loop for _, other in value.hidden):
        first = walked
    else:
        first = plain(passes, value.constant and loop not in value.loops)
    return _outside(value._replace(axes=(first, *value.axes)), loop)


def _kept(program: Any, start: int, count: int) -> list[bool]:
    """Which carries a body passes through untouched."""
    program = inner(program)
    carried = program.invars[start : start + count]
    return [new is old for old, new in zip(carried, program.outvars[:count], strict=True)]


def _joined(
    carry: Sequence[Value], after: Sequence[Value], equation: Equation, round_: int
) -> list[Value]:
    """What holds of the carry before and after a pass."""
    joined = []
    for old, new in zip(carry, after, strict=True):
        if old is new:
            joined.append(old)
            continue
        shape = tuple(length(axis) for axis in old.axes)
        value = meet([old, new], shape, equation)
        if round_ >= _PATIENCE and value.window is not None and old.window is not None:
            low = value.window[0] if value.window[0] == old.window[0] else -math.inf
            high = value.window[1] if value.window[1] == old.window[1] else math.inf
            value = value._replace(window=(low, high))
        joined.append(value)
    return joined


def _same(first: Sequence[Value], second: Sequence[Value]) -> bool:
    return [_facts(value) for value in first] == [_facts(value) for value in second]


def _facts(value: Value) -> tuple[Any, ...]:
    flags = [cause is not None for cause in (value.steps, value.rows, value.place)]
    return (*value[:5], *flags)


_CALLS = """
call checkpoint closed_call composite core_call custom_jvp_call custom_vjp_call
custom_vjp_call_jaxpr custom_vmap_call jit linear_call pjit remat remat2
"""

RULES: Rules = {
    **dict.fromkeys(_CALLS.split(), call),
    "call_hi_primitive": expandable,
    "custom_linear_solve": custom_linear_solve,
    "cond": cond,
    "while": while_,
    "scan": scan,
}
