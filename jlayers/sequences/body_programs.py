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
from .body_deciding import Deciding
from .body_judging import Guesses, Judging, NotTracedError, StoppedError
from .body_plan import Plan, Sources, UndecidedError, tried
from .body_sources import Known, sources_of


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
    tracings: list[Tracing] = [
        functools.partial(_trace, body, children, x, train, whole, groups, shared, beside)
        for shared, groups in itertools.product((False, True) if beside else (True,), apart)
    ]
    nested = mixing.is_looking()
    with mixing.looking():
        found = _found(tracings, rows, steps)
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


def _found(
    tracings: list[Tracing], rows: int, steps: int
) -> tuple[Tracing, _Traced, _Traced] | None:
    """Two programs whose plans agree: no array is taken for steps by a coincidence of sizes.

    At the first sizes at which there are such, by the first of the tracings that gives them.
    """
    refused: UndecidedError | None = None
    near = [(rows + 1, steps + more) for more in (1, 2, 4)]
    for first, others in (((rows, steps), near), *((a, [b]) for a, b in OWN_SIZES)):
        ones: dict[int, _Traced | None] = {}
        for second in others:
            # One that fails where a later one does not joins what it is to keep apart.
            for i, traced in enumerate(tracings):
                try:
                    if i not in ones:
                        ones[i] = tried(traced, first, None)
                    one = ones[i]
                    two = one and tried(traced, second, one.plan)
                except UndecidedError as error:
                    if i == 0:
                        raise
                    # Only if those before it fail at all sizes.
                    refused, tracings = error, tracings[:i]
                    break
                if one and two:
                    return traced, one, two
    if refused:
        raise refused
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
    guesses = Guesses([], 0) if beside and plan is None else None
    scopes: list[Judging] = []
    ended: list[bool] = []
    known: Known = {}

    def run(key: jax.Array, x: PyTree) -> tuple[list[PyTree], PyTree, list[jax.Array]]:
        f = Judging(children, x, key, sized, plan, whole, guesses)
        f.train = train
        scopes.append(f)
        ended.append(False)
        try:
            y = without_masks(body(f, x))
        except StoppedError:
            return f._judged_given, None, []
        except Exception:
            # With keys that are guessed wrongly it may well fail.
            if guesses is None or len(f._judged_calls) <= guesses.sure:
                raise
            return f._judged_given, None, []
        ended[-1] = True
        if guesses is None:
            f._judged_outputs = f._keys_of(y, None if plan is None else plan.outputs)
        f._judged_stated = f._variables_set()
        return f._judged_given, y, f._judged_stated

    while True:
        key = jax.eval_shape(lambda: jax.random.key(0))
        # Another function each time: one that JAX remembers is not run again.
        again = functools.partial(run)
        program, results = jax.make_jaxpr(again, return_shape=True)(key, inputs)
        f = scopes[-1]
        if whole or plan is not None:
            break
        if guesses is None:
            known = sources_of(program.jaxpr, f._judged_inputs, f._judged_call, f._judged_leads())
            break
        deciding = Deciding(program.jaxpr, f, guesses.sure, shared, ended[-1])
        if deciding.agrees and ended[-1]:
            known = deciding.known
            break
        guesses = Guesses(deciding.keys, deciding.sure)
    nothing: Sources = frozenset()
    sources = [known.get(id(variable), nothing) for variable in program.jaxpr.outvars]
    found = Plan(
        [source.key if source.masked else None for source in f._judged_inputs],
        f._judged_calls,
        f._judged_outputs,
        [],
        len(f._judged_stated),
        f._judged_inside,
        tuple(sources) if known else (),
    )
    lengths = [sequence.mask.shape[1] for sequence in f._judged_masks]
    return _Traced(Trace(program, jax.tree.structure(results), rows, steps), found, lengths)


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
