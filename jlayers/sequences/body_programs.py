"""Programs of bodies at several sizes: which arrays hold steps, and what becomes of the steps.

An array that leads with the rows and the steps at each of two sizes holds steps. What the body's
arithmetic does with them is read from both programs (``base.dependence``), in which the calls of
children are not looked into: children are judged by themselves.

How to read this file: ``judged_plan`` makes a ``Plan``. ``_trace`` gives the body's
program at one size, run by ``_Judging``; ``_compared`` judges two programs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from collections.abc import Sequence as SizesOf
from typing import Any, NamedTuple

import jax
from jax.extend.core import get_opaque_trace_state
from jax.typing import DTypeLike

from ..base import mixing
from ..base.added_losses import check_loss
from ..base.dependence import OPAQUE, OWN_SIZES, Sizes, Trace, Verdict, compare, worst
from ..base.layer import Layer
from ..base.scope import Body, InitScope, Variable
from ..base.sequence import Sequence, is_sequence, sequences_in
from ..base.sequence_mode import without_masks
from ..base.specs import specs_of
from ..base.tracing import trace
from ..base.types import Initializer, PyTree, Spec
from .body_plan import LOSS, CalledInsideError, Keys, Plan, tried, with_masks


class NotTracedError(Exception):
    """The body has no program at sizes other than its own."""


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
    found: tuple[Tracing, _Traced, _Traced] | None = None
    nested = mixing.is_looking()
    with mixing.looking():
        for groups in apart:
            at = functools.partial(_trace, body, children, x, train, whole, groups)
            found = found or _found(at, rows, steps)
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
    return one.plan._replace(
        verdicts=[
            [worst(same) for same in zip(*leaf, strict=True)]
            for leaf in zip(*verdicts, strict=True)
        ]
    )


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
    size: tuple[int, int],
    plan: Plan | None,
) -> _Traced:
    """The body's program for a number of rows and steps.

    Args:
      groups: for each Sequence, with which of them it shares its steps.
      size: rows, and steps of the first Sequence.
      plan: to follow; None to make one, by the sizes of the arrays.
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
        # An array of a Sequence's own rows and steps, such as positions, gets the same sizes.
        if shape[:2] in leads:
            shape = (rows, numbers[leads.index(shape[:2])], *shape[2:])
        elif shape[:1] == leads[0][:1]:
            shape = (rows, *shape[1:])
        return jax.ShapeDtypeStruct(shape, node.dtype)

    sized = jax.tree.map(resized, x, is_leaf=is_sequence)
    scopes: list[_Judging] = []

    def run(key: jax.Array, x: PyTree) -> tuple[list[PyTree], PyTree, list[jax.Array]]:
        f = _Judging(children, x, key, sequences_in(sized), plan, whole)
        f.train = train
        scopes.append(f)
        y = body(f, x)
        f._judged_outputs = f._keys_of(without_masks(y), None if plan is None else plan.outputs)
        f._judged_stated = f._variables_set()
        return f._judged_given, without_masks(y), f._judged_stated

    key = jax.eval_shape(lambda: jax.random.key(0))
    inputs = sized if whole else without_masks(sized)
    program, results = jax.make_jaxpr(run, return_shape=True)(key, inputs)
    f = scopes[-1]
    inputs_of = [groups.index(group) for group in groups]
    found = Plan(
        inputs_of,
        f._judged_calls,
        f._judged_outputs,
        [],
        len(f._judged_stated),
        f._judged_inside,
        _calls_behind(program.jaxpr, f._judged_calls),
    )
    lengths = [sequence.mask.shape[1] for sequence in f._judged_masks]
    return _Traced(Trace(program, jax.tree.structure(results), rows, steps), found, lengths)


def _calls_behind(program: Any, calls: list[tuple[Keys, Keys]]) -> tuple[frozenset[int], ...]:
    """For each result of the program, the calls whose outputs without steps it depends on."""
    # Without those that take nothing, and without losses: neither depends on a step.
    numbers = iter([i for i, (taken, _) in enumerate(calls) if taken and taken != [LOSS]])
    behind: dict[int, frozenset[int]] = {}
    nothing: frozenset[int] = frozenset()
    for equation in program.eqns:
        found = nothing.union(*(behind.get(id(v), nothing) for v in equation.invars))
        keys: Keys = [0] * len(equation.outvars)
        number = -1
        if equation.params.get("name") == OPAQUE and equation.invars:
            number = next(numbers, number)
            # Of a Sequence there are two arrays, which a plan for whole ones does not follow.
            given = calls[number][1]
            keys = given if len(given) == len(keys) else keys
        for variable, key in zip(equation.outvars, keys, strict=True):
            behind[id(variable)] = found | {number} if key is None else found
    return tuple(behind.get(id(v), nothing) for v in program.outvars)


class _Judging(InitScope):
    """Runs a body at some size, on values or on Sequences.

    Calls of its children are not looked into. Its own names begin with an underscore: others are
    those of children, such as ``f.keys``.
    """

    def __init__(
        self,
        children: Mapping[str, Layer],
        x: PyTree,
        key: jax.Array,
        masks: list[Sequence],
        plan: Plan | None,
        whole: bool,
    ):
        super().__init__(children, x, key)
        # The first of each length: the number of a mask is its place here.
        self._judged_masks = list({sequence.mask.shape[1]: sequence for sequence in masks}.values())
        self._judged_calls: list[tuple[Keys, Keys]] = []
        self._judged_given: list[PyTree] = []
        self._judged_outputs: Keys = []
        self._judged_stated: list[jax.Array] = []
        self._judged_inside: str | None = None
        self._plan = plan
        self._whole = whole
        self._level = get_opaque_trace_state()
        self._first: dict[str, jax.Array] = {}

    def variable(
        self,
        name: str,
        init: Initializer,
        shape: SizesOf[int],
        dtype: DTypeLike = jax.numpy.float32,
    ) -> Variable:
        variable = super().variable(name, init, shape, dtype)
        self._first[name] = variable.value
        return variable

    def _variables_set(self) -> list[jax.Array]:
        """The values that the body has given to its variables."""
        return [value for name, value in self._variables.items() if value is not self._first[name]]

    def _keys_of(self, tree: PyTree, planned: Keys | None) -> Keys:
        """The key of each leaf: as planned, or by its rows and steps."""
        leaves = jax.tree.leaves(tree)
        leads = [tuple(mask.mask.shape) for mask in self._judged_masks]
        if planned is None:
            shapes = [jax.numpy.shape(leaf)[:2] for leaf in leaves]
            return [leads.index(shape) if shape in leads else None for shape in shapes]
        for leaf, key in zip(leaves, planned, strict=True):
            if key is not None and jax.numpy.shape(leaf)[:2] != leads[key]:
                raise NotTracedError
        return planned

    def _call(self, name: str, /, *xs: PyTree, **named: PyTree) -> PyTree:
        if get_opaque_trace_state() != self._level:
            # What the child is given belongs to another program: in this one, it is a constant.
            if not self._whole:
                raise CalledInsideError(name)
            self._judged_inside = name
        return super()._call(name, *xs, **named)

    def _run_child(self, name: str, child: Layer, x: PyTree) -> PyTree:
        planned = self._plan.calls[len(self._judged_calls)] if self._plan else None
        values = without_masks(x)
        taken = self._keys_of(values, None if planned is None else planned[0])
        self._judged_given.append(values)
        whole = bool(sequences_in(x))
        inputs = specs_of(x if whole else with_masks(x, taken, dict(enumerate(self._judged_masks))))
        found = trace(child, inputs)
        self._found.setdefault(name, found)
        self._inputs.setdefault(name, []).append(specs_of(x))
        returned = [
            self._number(leaf) if is_sequence(leaf) else None
            for leaf in jax.tree.leaves(found.out, is_leaf=is_sequence)
        ]
        if planned is not None and returned != planned[1]:
            raise NotTracedError
        self._judged_calls.append((taken, returned))
        out = found.out if whole else without_masks(found.out)
        leaves, structure = jax.tree.flatten(out)
        return jax.tree.unflatten(structure, mixing.opaque(leaves, jax.tree.leaves(x)))

    def add_loss(self, value: jax.Array) -> None:
        self._judged_given.append(check_loss(value))
        self._judged_calls.append(([LOSS], []))

    def _number(self, sequence: Sequence) -> int:
        """The number of its mask, which may be a new one."""
        lengths = [mask.mask.shape[1] for mask in self._judged_masks]
        if sequence.mask.shape[1] not in lengths:
            self._judged_masks.append(sequence)
            return len(lengths)
        return lengths.index(sequence.mask.shape[1])

    def _entry(self, tree: Any, name: str, init: Initializer, spec: Spec) -> jax.Array:
        # Not what the initialiser makes: it may be all zeros, and trained parameters are not.
        (value,) = mixing.opaque([spec], [])
        return value
