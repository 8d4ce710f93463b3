"""How the steps of a function's outputs depend on the steps of its inputs.

How to read this file: ``judge`` compares the function's programs at two sizes of the analysis'
own; ``judge_call`` compares also with the sizes of a call, so that what a function decides by
looking at them in Python is seen. The programs are traced in ``trace.py`` and walked in
``walk.py``; nothing is compiled or run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from .domain import ALL, Cause, Sizes, fresh
from .equation import Differs, inner, shapes
from .trace import Inputs, Trace
from .verdict import Verdict, all_mixed, verdict, worst
from .walk import ANOTHER_PROGRAM, walk

UNTRACEABLE = "cannot be traced for another number of steps"


def judge(function: Callable[..., Any], *arguments: Any, timed: Any = True, lead: int = 2) -> Any:
    """Tells how each output step of a function depends on the input steps.

    It looks at the function at a few sizes of its own, so a branch in Python on the number of
    steps may escape it: ``judge_call`` looks at those of a call too.

    Args:
      function: of the arguments, to a pytree of arrays. It is traced, not run.
      arguments: pytrees of arrays or ``jax.ShapeDtypeStruct``, for their shapes and dtypes alone.
      timed: which arrays lead with (batch, time): a bool for all arguments, a tuple with a bool or
        a prefix tree of bools for each, or a function of an array. ``"rows"`` instead of a
        bool is for an array that leads with (batch,) alone. Others keep their shape and count as
        constants.
      lead: how many axes timed arrays lead with: 1 for (steps, ...) without a batch.

    Returns:
      A pytree like the function's result, with a ``Verdict`` for each array.

    Raises:
      ValueError: the timed arrays have not all the same first two dimensions.
      Exception: what the function raises for the arguments as they are.

    >>> import jax, jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((4, 10, 3), "float32")
    >>> judge(jnp.tanh, x).is_per_step
    True
    >>> found = judge(lambda x: x - x.mean(1, keepdims=True), x)
    >>> found.kind, found.why.primitive, found.why.reason
    ('mixed', 'reduce_sum', 'reduces over time')
    >>> judge(lambda x: x.at[:, 1:].add(-x[:, :-1]), x).kind
    'mixed'
    """
    inputs = Inputs(arguments, timed, lead)
    traces = inputs.own_traces(function)
    if traces is None:
        return _untraceable(inputs.trace(function, inputs.rows, inputs.steps))
    return _tree(traces[0], _compare(inputs, *traces))


def judge_call(
    function: Callable[..., Any], *arguments: Any, timed: Any = True, lead: int = 2
) -> Any:
    """As ``judge``, and compares with the sizes of the arguments.

    Their number of steps is compared with one more, more than twice as many, and 2: a row of 2
    steps in a long batch must give what it gives alone.

    Args, Returns, Raises: as for ``judge``.

    >>> import jax, jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((4, 200, 3), "float32")
    >>> def f(x):
    ...     return x.cumsum(1) if x.shape[1] > 100 else x
    >>> judge(f, x).kind, judge_call(f, x).kind
    ('each', 'mixed')
    """
    inputs = Inputs(arguments, timed, lead)
    # Never 1: a dimension of length 1 broadcasts, and means something else.
    rows, steps = max(inputs.rows, 2), max(inputs.steps, 2)
    call = inputs.first_trace(function, [(rows, steps)])
    call = call or inputs.trace(function, inputs.rows, inputs.steps)
    own = inputs.own_traces(function)
    if own is None:
        return _untraceable(call)
    if own[0].structure != call.structure:
        return _tree(call, _mixed(Cause((), "", ANOTHER_PROGRAM), call))
    found = [_compare(inputs, *own)]
    if all(v.window == ALL and v.rows and v.place for v in found[0]):
        # Nothing is left to find out, and a Python loop over a long call's steps is slow to trace.
        return _tree(call, found[0])
    compared = 0
    longer = (2 * steps + 1, 2 * steps + 2, 3 * steps, 4 * steps)
    for others in ((steps + 1, steps + 2, steps + 4), longer, (2, 4)):
        sizes = [(count, n) for n in others if n != steps for count in (rows + 1, 2 * rows)]
        other = inputs.first_trace(function, sizes)
        if other is not None:
            compared += 1
            found.append(_compare(inputs, call, other))
    if not compared:
        return _untraceable(call)
    return _tree(call, [worst(verdicts) for verdicts in zip(*found, strict=True)])


def _compare(inputs: Inputs, first: Trace, second: Trace) -> list[Verdict]:
    """A verdict for each output, from two traces."""
    sizes = Sizes((first.rows, second.rows), (first.steps, second.steps))
    return compare(first, second, sizes, inputs.lead)


def compare(first: Trace, second: Trace, sizes: Sizes, lead: int = 2) -> list[Verdict]:
    """A verdict for each output of a program that was traced twice.

    Args:
      first, second: its traces.
      sizes: the rows, and the steps that are asked for. Other lengths that differ between the
        traces, such as those of another sequence, count as the same all along.
      lead: as for ``judge``.
    """
    one, two = inner(first.program), inner(second.program)
    try:
        if first.structure != second.structure or len(one.invars) != len(two.invars):
            raise Differs(Cause((), "", ANOTHER_PROGRAM))
        arguments = [fresh(shape, sizes, lead) for shape in shapes(one.invars, two.invars)]
        values = walk(
            (first.program, second.program), arguments, sizes, (), itertools.count().__next__
        )
    except Differs as difference:
        return _mixed(difference.cause or Cause((), "", ANOTHER_PROGRAM), first, second)
    return [verdict(value, sizes, lead) for value in values]


def _tree(trace: Trace, verdicts: Sequence[Verdict]) -> Any:
    return jax.tree.unflatten(trace.structure, verdicts)


def _untraceable(trace: Trace) -> Any:
    return _tree(trace, _mixed(Cause((), "", UNTRACEABLE), trace))


def _mixed(cause: Cause, first: Trace, *others: Trace) -> list[Verdict]:
    """What is known of outputs from their shapes alone."""
    traces = [first, *(trace for trace in others if trace.structure == first.structure)]
    outputs = [inner(trace.program).outvars for trace in traces]
    return [
        all_mixed(
            cause,
            all(
                output.aval.shape[:2] == (trace.rows, trace.steps)
                for output, trace in zip(same, traces, strict=True)
            ),
        )
        for same in zip(*outputs, strict=True)
    ]
