"""Programs of bodies at several sizes: which arrays hold steps, and what becomes of the steps.

An array that leads with the rows and the steps at each of two sizes holds steps; beside an array
of as many steps, if a Sequence is in it (``body_sources``). What the body's arithmetic does with
steps is read from both programs (``base.dependence``), in which the calls of children are not
looked into: children are judged by themselves.

How to read this file: ``judged_plan`` makes a ``Plan``. ``_trace`` gives the body's
program at one size, run by ``Judging``; ``_compared`` judges two programs.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from ..base import mixing
from ..base.dependence import OWN_SIZES, Sizes, Trace, Verdict, compare, results_reached, worst
from ..base.layer import Layer
from ..base.scope import Body
from ..base.sequence import Sequence, is_sequence, sequences_in
from ..base.sequence_mode import without_masks
from ..base.types import PyTree
from .body_judging import Judging, NotTracedError, StoppedError
from .body_plan import Keys, Plan, Sources, tried
from .body_sources import UNDECIDED, key_of, made_by, owner, settled, sources_of, undecided


class _Traced(NamedTuple):
    """A body's program at one size: its plan, and the number of steps of each mask."""

    program: Trace
    plan: Plan
    lengths: list[int]


def judged_plan(
    body: Body, children: Mapping[str, Layer], x: PyTree, train: bool, whole: bool = False
) -> Plan:
    """A plan with verdicts; while another body is looked at, without: it asks for masks alone.

    Args:
      whole: whether the body gets Sequences, and not their values.
    """
    lengths = [sequence.mask.shape[1] for sequence in sequences_in(x)]
    # Several Sequences have steps of their own, unless the body joins those of one length.
    apart = [list(range(len(lengths)))]
    if len(set(lengths)) < len(lengths):
        apart.append([lengths.index(length) for length in lengths])
    # The sizes of the call first, since Python may look at them. Never 1, which broadcasts.
    rows, steps = (max(size, 2) for size in sequences_in(x)[0].mask.shape)
    # So has an array beside them, unless the body joins it with theirs.
    beside = not whole and _has_steps_beside(x)
    found: tuple[Tracing, _Traced, _Traced] | None = None
    nested = mixing.is_looking()
    with mixing.looking():
        for shared, groups in itertools.product((False, True) if beside else (True,), apart):
            given = (body, children, x, train, whole, groups, shared, beside)
            found = found or _found(functools.partial(_trace, *given), rows, steps)
        if found is None:
            raise NotTracedError
        traced, one, two = found
        if nested:
            return one.plan
        verdicts = [_compared(one, two)]
        at_call = one
        if (one.program.rows, one.program.steps) != (rows, steps):
            at_call = tried(traced, (rows, steps), one.plan) or one
        # More than twice as many steps, and few: a row of them must be as if alone.
        for numbers in ((2 * steps + 1, 2 * steps + 2, 4 * steps), (2, 4)):
            sizes = [(at_call.program.rows + 1, n) for n in numbers if n != at_call.program.steps]
            if other := _first(traced, sizes, one.plan):
                verdicts.append(_compared(at_call, other))
    nothing: Sources = frozenset()
    sources = one.plan.sources or [nothing] * len(verdicts[0])
    return one.plan._replace(
        verdicts=[
            [_of_sources(worst(same), key, own) for key, same in enumerate(zip(*leaf, strict=True))]
            for leaf, own in zip(zip(*verdicts, strict=True), sources, strict=True)
        ]
    )


def _has_steps_beside(x: PyTree) -> bool:
    """Whether an array has the rows and the steps of a Sequence, and no mask."""
    leads = [tuple(sequence.mask.shape) for sequence in sequences_in(x)]
    leaves = jax.tree.leaves(x, is_leaf=is_sequence)
    return any(not is_sequence(leaf) and tuple(leaf.shape[:2]) in leads for leaf in leaves)


def _of_sources(verdict: Verdict, key: int, sources: Sources) -> Verdict:
    """The verdict of an array for the steps of a mask, if any that have this mask are in it."""
    like = [source for source in sources if source.key == key]
    if not like or any(source.masked for source in like):
        return verdict
    # What a body does with the steps of an array alone is its own affair.
    return Verdict("each", (0, 0), False, False, False, None, constant=True)


Tracing = Callable[[tuple[int, int], Plan | None], _Traced]


def _found(traced: Tracing, rows: int, steps: int) -> tuple[Tracing, _Traced, _Traced] | None:
    """Two programs whose plans agree: no array is taken for steps by a coincidence of sizes."""
    near = [(rows + 1, steps + more) for more in (1, 2, 4)]
    for first, others in (((rows, steps), near), *((a, [b]) for a, b in OWN_SIZES)):
        one = tried(traced, first, None)
        two = one and _first(traced, others, one.plan)
        if one and two:
            return traced, one, two
    return None


def _first(traced: Tracing, sizes: list[tuple[int, int]], plan: Plan) -> _Traced | None:
    """The program at the first of the sizes at which there is one."""
    return next((found for size in sizes if (found := tried(traced, size, plan))), None)


def _compared(one: _Traced, two: _Traced) -> list[list[Verdict]]:
    """For each leaf, its verdict for the steps of each mask."""
    rows = (one.program.rows, two.program.rows)
    by_mask = [
        compare(one.program, two.program, Sizes(rows, steps))
        for steps in zip(one.lengths, two.lengths, strict=True)
    ]
    return [list(leaf) for leaf in zip(*by_mask, strict=True)]


def _trace(
    body: Body,
    children: Mapping[str, Layer],
    x: PyTree,
    train: bool,
    whole: bool,
    groups: list[int],
    shared: bool,
    beside: bool,
    size: tuple[int, int],
    plan: Plan | None,
) -> _Traced:
    """The body's program for a number of rows and steps.

    Args:
      groups: for each Sequence, with which of them it shares its steps.
      shared: whether arrays of as many steps, such as positions, share them too.
      beside: whether there are such arrays.
      size: rows, and steps of the first Sequence.
      plan: to follow; None to make one, by the sizes of the arrays and by what is in them.
    """
    rows, steps = size
    # Not in proportion: no stride takes the steps of one Sequence to those of another.
    numbers = [steps + 3 * group for group in groups]
    leads = [tuple(sequence.mask.shape) for sequence in sequences_in(x)]
    given = iter(numbers)

    def resized(node: Any) -> Any:
        if is_sequence(node):
            lead = (rows, next(given))
            return Sequence(jax.ShapeDtypeStruct((*lead, *node.shape[2:]), node.dtype))
        shape = tuple(node.shape)
        if shared and shape[:2] in leads:
            shape = (rows, numbers[leads.index(shape[:2])], *shape[2:])
        elif shape[:1] == leads[0][:1]:
            shape = (rows, *shape[1:])
        return jax.ShapeDtypeStruct(shape, node.dtype)

    sized = jax.tree.map(resized, x, is_leaf=is_sequence)
    inputs = sized if whole else without_masks(sized)
    # What is in an array shows in a program up to there: so it grows call by call.
    decided: list[Keys] | None = [] if beside and plan is None else None
    scopes: list[Judging] = []
    while True:

        def run(key: jax.Array, x: PyTree) -> tuple[list[PyTree], PyTree, list[jax.Array]]:
            f = Judging(children, x, key, sized, plan, whole, decided)
            f.train = train
            scopes.append(f)
            try:
                y = without_masks(body(f, x))
            except StoppedError:
                return f._judged_given, None, []
            f._judged_asked = None
            if decided is None:
                f._judged_outputs = f._keys_of(y, None if plan is None else plan.outputs)
            f._judged_stated = f._variables_set()
            return f._judged_given, y, f._judged_stated

        key = jax.eval_shape(lambda: jax.random.key(0))
        program, results = jax.make_jaxpr(run, return_shape=True)(key, inputs)
        f = scopes[-1]
        sources: list[Sources] = []
        if whole or plan is not None:
            break
        sources = sources_of(program.jaxpr, f._judged_inputs, f._judged_calls, f._judged_leads())
        if decided is None:
            break
        keys = _decided(program.jaxpr, sources, f, shared)
        if f._judged_asked is None:
            f._judged_outputs = keys
            break
        decided.append(keys)
    found = Plan(
        [source.key if source.masked else None for source in f._judged_inputs],
        f._judged_calls,
        f._judged_outputs,
        [],
        len(f._judged_stated),
        f._judged_inside,
        tuple(sources),
    )
    lengths = [sequence.mask.shape[1] for sequence in f._judged_masks]
    return _Traced(Trace(program, jax.tree.structure(results), rows, steps), found, lengths)


def _decided(program: Any, sources: list[Sources], f: Judging, shared: bool) -> Keys:
    """The keys of what the next call is given, or else of the body's output.

    Raises:
      UndecidedError: nothing tells whose steps an array has.
    """
    start = sum(len(taken) for taken, _ in f._judged_calls)
    end = len(program.outvars) - len(f._judged_stated)
    leads = f._judged_leads()
    # Where no array has these steps, they are those of a Sequence.
    every = frozenset(f._judged_inputs).union(*sources)
    plain = {source.key for source in every if not source.masked}
    keys: Keys = []
    for variable, own in zip(program.outvars[start:end], sources[start:end], strict=True):
        key, like = owner(variable.aval.shape, own, leads), key_of(variable.aval.shape, leads)
        keys.append(like if key == UNDECIDED and not (shared and like in plain) else key)
    if UNDECIDED not in keys:
        return keys
    equations = [made_by(program, variable) for variable in program.outvars[start:end]]
    if f._judged_asked is None:
        raise undecided("returns", equations[keys.index(UNDECIDED)])
    name, child, structure = f._judged_asked
    given = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in program.outvars[start:end]]
    return settled(
        name, child, jax.tree.unflatten(structure, given), keys, f._judged_masks, equations
    )


def of_arrays(body: Body, children: Mapping[str, Layer], x: PyTree, train: bool) -> list[bool]:
    """Which outputs of a body are made of arrays of its input that have no mask."""

    def run(key: jax.Array, values: PyTree) -> PyTree:
        f = Judging(children, values, key, [], None, True, None)
        f.train = train
        return body(f, values)

    with mixing.looking():
        key = jax.eval_shape(lambda: jax.random.key(0))
        program = jax.make_jaxpr(run)(key, without_masks(x))
    masked = [is_sequence(leaf) for leaf in jax.tree.leaves(x, is_leaf=is_sequence)]
    within = results_reached(program, [False, *masked])
    beside = results_reached(program, [False, *(not mask for mask in masked)])
    return [array and not step for step, array in zip(within, beside, strict=True)]
