"""Bodies of ``compose`` that were written for arrays, run on Sequences and in streams.

A body may call functions of ``jnp`` between its children, and these take arrays. Then the body gets
the values, its children get Sequences, and two questions arise: which array belongs to which mask,
and whether the body's own arithmetic acts on each step alone. Both are answered by tracing the body
at several numbers of rows and steps: an array that leads with them at each of these sizes holds
steps, and what becomes of the steps is read from the programs (``jlayers.dependence``).

How to read this file: ``taking_sequences`` wraps the body and ``check_stream`` asks about a stream;
both follow a ``Plan``, which ``_plan`` makes: ``_trace`` is the body's program at one size, with
its children as calls that are not looked into, and ``_compared`` judges two of them. ``_run``
follows the plan on real Sequences.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax

from ..base import mixing
from ..base.errors import LayerError
from ..base.layer import Layer
from ..base.receptive_field import EVERYWHERE
from ..base.scope import Body, InitScope, Scope
from ..base.sequence import (
    Sequence,
    SharedStepsError,
    is_sequence,
    joined_masks,
    mapped,
    sequences_in,
)
from ..base.sequence_mode import seen_through
from ..base.specs import format_short, placeholders, spec_key, specs_of
from ..base.tracing import REMEMBERED, trace
from ..base.types import Initializer, Params, PyTree, Spec
from ..dependence import OPAQUE, OWN_SIZES, Sizes, Trace, Verdict, compare, worst

# What an array belongs to: the number of a mask, in the order in which they are met.
Keys = list[int | None]
Found = TypeVar("Found")


class Plan(NamedTuple):
    """Which arrays hold steps. A key is the number of a mask; None is an array without one.

    Attributes:
      inputs: the key of each Sequence in the body's input.
      calls: for each call of a child, the keys of the leaves of its input, and of its output.
      outputs: the keys of the leaves of the body's output.
      verdicts: what each leaf is made of, for each mask: of the inputs of the calls, call by call,
        and then of the outputs.
    """

    inputs: list[int]
    calls: list[tuple[Keys, Keys]]
    outputs: Keys
    verdicts: list[list[Verdict]]

    def leaves(self) -> Iterator[tuple[int | None, list[Verdict], bool]]:
        """Key and verdicts of each leaf, and whether it is of the body's output."""
        given = [key for keys, _ in self.calls for key in keys]
        for i, key in enumerate((*given, *self.outputs)):
            yield key, self.verdicts[i], i >= len(given)


def taking_sequences(body: Body, children: Mapping[str, Layer]) -> Body:
    """The body, wrapped: Sequences that it cannot take as they are become arrays for it."""
    plans: dict[Any, Plan | None] = {}

    def run(f: Scope, x: PyTree) -> PyTree:
        found = sequences_in(x)
        if not found:
            return body(f, x)
        specs = specs_of(x)
        if found[0].mask.ndim == 1:  # a mask of rows: each row is one plain input
            return mapped(functools.partial(body, f), (x,))
        tracked = any(sequence._receptive_field is not None for sequence in found)
        known = (spec_key(specs), f.train, mixing.is_looking())
        # A plan depends on structure and sizes: it is made once for each, as a trace is.
        if known not in plans:
            if len(plans) >= REMEMBERED:
                plans.pop(next(iter(plans)))
            plans[known] = _plan(body, children, specs, f.train, tracked)
        plan = plans[known]
        if plan is None:
            return body(f, x)
        if not mixing.is_looking():
            _check_masks(plan, tracked)
        return _run(body, f, x, plan)

    return run


def check_stream(body: Body, children: Mapping[str, Layer], x: PyTree) -> None:
    """Raises where the arithmetic of a body does not take a block ``x`` for the whole.

    Args:
      x: specs of a block, without masks; arrays of other rows or steps, such as a memory, stand
        beside it.
    """
    leads = dict.fromkeys(leaf.shape[:2] for leaf in jax.tree.leaves(x) if len(leaf.shape) > 1)
    for lead in leads:
        blocks = jax.tree.map(
            lambda leaf: Sequence(leaf) if leaf.shape[:2] == lead else leaf,  # noqa: B023
            x,
        )
        plan = _tried(_judged_plan, body, children, blocks, False)
        # The block's steps are those of the output; others are a memory's.
        if plan is None or None in plan.outputs:
            continue
        for key, verdicts, _ in plan.leaves():
            if key is not None and (error := mixing.of_stream(verdicts[key], "the body")):
                raise error
        return


def _check_masks(plan: Plan, tracked: bool) -> None:
    """Raises where a body's arithmetic would read the padding.

    Args:
      tracked: whether the receptive field is asked for, and not the values.
    """
    for key, verdicts, is_output in plan.leaves():
        if key is None:
            if is_output or all(verdict.kind == "each" for verdict in verdicts):
                continue  # an output without steps has an error of its own, which shows its shape
            mixed = next(verdict for verdict in verdicts if verdict.kind != "each")
            raise LayerError(
                "the body mixes the steps and the padding of a Sequence before a child",
                got=str(mixed.why),
                hint="GlobalAvgPool(), each_step(layer) or on_sequence(function) as children "
                "for what mixes steps",
            )
        if tracked:
            continue
        for i, verdict in enumerate(verdicts):
            # Of other masks nothing may come in, not even as a position.
            of_own = verdict if i == key else verdict._replace(place=False, rows=False)
            if error := mixing.of_mask(of_own, "the body"):
                raise error


def _plan(
    body: Body, children: Mapping[str, Layer], x: PyTree, train: bool, tracked: bool
) -> Plan | None:
    """None for a body that takes Sequences as they are, as those do that only call children."""
    judged = functools.partial(_judged_plan, body, children, x, train)
    # What such a body multiplies a Sequence with may be a summary of it: only values show that.
    if tracked and (plan := _tried(judged)):
        return plan
    try:
        _abstractly(body, children, x, train)
        if sequences_in(x)[0].shape[0] == 1:
            _abstractly(body, children, _of_rows(x, 3), train)
    except SharedStepsError:
        raise
    except Exception as first:
        # Its own text would show sizes that are not the user's, who is told of the first error: the
        # body takes neither Sequences nor arrays.
        if plan := _tried(judged):
            return plan
        raise first from None
    return None


def _of_rows(x: PyTree, rows: int) -> PyTree:
    """The specs with as many rows. With one row its steps look like steps that all rows share."""
    return jax.tree.map(
        lambda leaf: (
            jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)
            if leaf.shape[:1] == (1,)
            else leaf
        ),
        x,
    )


class _NotTracedError(Exception):
    """The body has no program at sizes other than its own."""


def _abstractly(
    body: Callable[[Any, PyTree], PyTree], children: Mapping[str, Layer], x: PyTree, train: bool
) -> None:
    def run(key: jax.Array, x: PyTree) -> PyTree:
        f = InitScope(children, x, key)
        f.train = train
        return body(f, x)

    jax.eval_shape(run, jax.eval_shape(lambda: jax.random.key(0)), x)


def _judged_plan(body: Body, children: Mapping[str, Layer], x: PyTree, train: bool) -> Plan:
    rows, steps = sequences_in(x)[0].mask.shape
    lengths = [sequence.mask.shape[1] for sequence in sequences_in(x)]
    # Several Sequences have steps of their own, unless the body joins those of one length.
    apart = [list(range(len(lengths)))]
    if len(set(lengths)) < len(lengths):
        apart.append([lengths.index(length) for length in lengths])
    used = {size for leaf in jax.tree.leaves(x) for size in leaf.shape}
    traced = functools.partial(_trace, body, children, x, train)
    with mixing.looking():
        for groups in apart:
            for first, second in OWN_SIZES:
                # No coincidence with the sizes of features.
                if used & {first[1], second[1]} and (first, second) != OWN_SIZES[-1]:
                    continue
                one = _tried(traced, first, groups, None)
                two = one and _tried(traced, second, groups, one.plan)
                if one and two:
                    plan = one.plan
                    # A nested body asks for its masks alone.
                    verdicts = [_compared(one, two)]
                    # The sizes of the call too: Python may look at them. Never 1, which broadcasts.
                    call = (max(rows, 2), max(steps, 2))
                    at_call = _tried(traced, call, groups, plan)
                    for others in _OTHERS:
                        sizes = [(call[0] + 1, n) for n in others(call[1]) if n != call[1]]
                        other = next(
                            (t for size in sizes if (t := _tried(traced, size, groups, plan))),
                            None,
                        )
                        if at_call and other:
                            verdicts.append(_compared(at_call, other))
                    return plan._replace(
                        verdicts=[
                            [worst(same) for same in zip(*leaf, strict=True)]
                            for leaf in zip(*verdicts, strict=True)
                        ]
                    )
    raise _NotTracedError


# One step more than the call has, more than twice as many, and few.
_OTHERS: tuple[Callable[[int], tuple[int, ...]], ...] = (
    lambda n: (n + 1, n + 2, n + 4),
    lambda n: (2 * n + 1, 2 * n + 2, 4 * n),
    lambda n: (2, 4),
)


class _Traced(NamedTuple):
    """A body's program at one size: its plan, and the number of steps of each mask."""

    program: Trace
    plan: Plan
    lengths: list[int]


def _tried(function: Callable[..., Found], *arguments: Any) -> Found | None:
    try:
        return function(*arguments)
    except Exception:
        return None


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
    size: tuple[int, int],
    groups: list[int],
    plan: Plan | None,
) -> _Traced:
    """The body's program for a number of rows and steps.

    Args:
      size: rows, and steps of the first Sequence.
      groups: for each Sequence, with which of them it shares its steps.
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

    def run(key: jax.Array, values: PyTree) -> tuple[list[PyTree], PyTree]:
        f = _Judging(children, values, key, sequences_in(sized), plan)
        f.train = train
        scopes.append(f)
        y = body(f, values)
        f.outputs = f.keys(y, None if plan is None else plan.outputs)
        return f.given, y

    key = jax.eval_shape(lambda: jax.random.key(0))
    values = jax.tree.map(
        lambda node: node.values if is_sequence(node) else node, sized, is_leaf=is_sequence
    )
    program, results = jax.make_jaxpr(run, return_shape=True)(key, values)
    f = scopes[-1]
    found = Plan([groups.index(group) for group in groups], f.calls, f.outputs, [])
    lengths = [sequence.mask.shape[1] for sequence in f.masks]
    return _Traced(Trace(program, jax.tree.structure(results), rows, steps), found, lengths)


class _Judging(InitScope):
    """Runs a body on values at some size. Its children's calls are not looked into."""

    def __init__(
        self,
        children: Mapping[str, Layer],
        x: PyTree,
        key: jax.Array,
        masks: list[Sequence],
        plan: Plan | None,
    ):
        super().__init__(children, x, key)
        # The first of each length: the number of a mask is its place here.
        self.masks = list({sequence.mask.shape[1]: sequence for sequence in masks}.values())
        self.calls: list[tuple[Keys, Keys]] = []
        self.given: list[PyTree] = []
        self.outputs: Keys = []
        self._plan = plan

    def keys(self, tree: PyTree, planned: Keys | None) -> Keys:
        """The key of each leaf: as planned, or by its rows and steps."""
        leaves = jax.tree.leaves(tree)
        leads = [tuple(mask.mask.shape) for mask in self.masks]
        if planned is None:
            shapes = [jax.numpy.shape(leaf)[:2] for leaf in leaves]
            return [leads.index(shape) if shape in leads else None for shape in shapes]
        for leaf, key in zip(leaves, planned, strict=True):
            if key is not None and jax.numpy.shape(leaf)[:2] != leads[key]:
                raise _NotTracedError
        return planned

    def _run_child(self, name: str, child: Layer, x: PyTree) -> PyTree:
        planned = self._plan.calls[len(self.calls)] if self._plan else None
        taken = self.keys(x, None if planned is None else planned[0])
        self.given.append(x)
        inputs = specs_of(_wrapped(x, taken, dict(enumerate(self.masks))))
        # What the child's own pass computes on the way is no part of the body's program.
        with jax.ensure_compile_time_eval():
            found = trace(child, inputs)
        self._found.setdefault(name, found)
        self._inputs.setdefault(name, []).append(specs_of(x))
        leaves, structure = jax.tree.flatten(found.out, is_leaf=is_sequence)
        returned: Keys = []
        for leaf in leaves:
            key = None
            if is_sequence(leaf):
                lengths = [mask.mask.shape[1] for mask in self.masks]
                if leaf.mask.shape[1] not in lengths:
                    self.masks.append(leaf)
                    lengths.append(leaf.mask.shape[1])
                key = lengths.index(leaf.mask.shape[1])
            returned.append(key)
        if planned is not None and returned != planned[1]:
            raise _NotTracedError
        self.calls.append((taken, returned))
        values = [leaf.values if is_sequence(leaf) else leaf for leaf in leaves]
        return jax.tree.unflatten(structure, _opaque(values, jax.tree.leaves(x)))

    def _entry(self, tree: Any, name: str, init: Initializer, spec: Spec) -> jax.Array:
        # Not what the initialiser makes: it may be all zeros, and trained parameters are not.
        (value,) = _opaque([spec], [])
        return value


def _opaque(specs: list[Any], given: list[Any]) -> list[jax.Array]:
    """Arrays of these specs, by a call that the analysis does not look into."""

    def jlayers_opaque(given: list[Any]) -> list[jax.Array]:
        return placeholders(specs)  # type: ignore[no-any-return]

    jlayers_opaque.__name__ = OPAQUE
    return jax.jit(jlayers_opaque)(given)  # type: ignore[no-any-return]


class _Following:
    """The scope of a body that gets values, while its children get Sequences, as planned."""

    def __init__(self, f: Scope, masks: dict[int, Any], plan: Plan):
        self._f, self._masks, self._plan = f, masks, plan
        self._calls = iter(plan.calls)
        self._verdicts = iter(plan.verdicts)
        self._summarized = False

    def __getattr__(self, name: str) -> Any:
        return self[name] if name in self._f.children else getattr(self._f, name)

    def __getitem__(self, name: str) -> Any:
        return _Child(functools.partial(self._call, self._f[name]), self._f[name])

    def positions(self, x: PyTree) -> PyTree:
        return self._call(self._f.positions, x)

    def _call(self, child: Callable[[PyTree], PyTree], x: PyTree) -> PyTree:
        # The calls come in the order of the abstract run: a body may not depend on values.
        taken, given = next(self._calls)
        y, masks = _values(child(self.wrapped(x, taken)), keep_leaves=True)
        # What comes out without steps has seen all of them.
        self._summarized |= any(key is not None for key in taken) and None in given
        for key, mask in zip(given, masks, strict=True):
            if key is not None:
                _join(self._masks, key, mask)
        return y

    def wrapped(self, tree: PyTree, keys: Keys) -> PyTree:
        """The tree with a Sequence for every leaf that has a key, its receptive field grown."""
        leaves, structure = jax.tree.flatten(_wrapped(tree, keys, self._masks), is_leaf=is_sequence)
        verdicts = [next(self._verdicts) for _ in leaves]
        seen = [
            leaf if key is None else self._seen(leaf, verdict[key])
            for leaf, key, verdict in zip(leaves, keys, verdicts, strict=True)
        ]
        return jax.tree.unflatten(structure, seen)

    def _seen(self, sequence: Sequence, verdict: Verdict) -> Sequence:
        if sequence._receptive_field is not None and self._summarized:
            return sequence._with_field(EVERYWHERE)
        return seen_through(sequence, verdict)


class _Child:
    def __init__(self, call: Callable[[PyTree], PyTree], child: Any):
        self._call, self._child = call, child

    def __call__(self, x: PyTree) -> PyTree:
        return self._call(x)

    @property
    def params(self) -> Params:
        params: Params = self._child.params
        return params


def _run(body: Body, f: Scope, x: PyTree, plan: Plan) -> PyTree:
    values, found = _values(x)
    masks: dict[int, Sequence] = {}
    for key, sequence in zip(plan.inputs, found, strict=True):
        _join(masks, key, sequence)
    following = _Following(f, masks, plan)
    y = body(following, values)  # type: ignore[arg-type]
    if None in plan.outputs:
        raise LayerError(
            "the body must return steps for a Sequence",
            expected="(batch, time, ...)",
            got=format_short(specs_of(y)),
            hint="GlobalAvgPool() or on_sequence(function) as a child for what mixes steps",
        )
    return following.wrapped(y, plan.outputs)


def _join(masks: dict[int, Sequence], key: int, sequence: Sequence) -> None:
    """Adds a mask: an array of the body may depend on every Sequence of these steps so far."""
    known = masks.get(key)
    if known is not None:
        field = known._receptive_field
        if field is not None and sequence._receptive_field is not None:
            field = field.merge(sequence._receptive_field)
        mask = joined_masks(known.mask, sequence.mask)
        sequence = sequence._with(sequence.values, mask)._with_field(field)
    masks[key] = sequence


def _values(tree: PyTree, keep_leaves: bool = False) -> tuple[PyTree, list[Any]]:
    """The tree of values, and the Sequences; with ``keep_leaves``, None for every other leaf."""
    leaves, treedef = jax.tree.flatten(tree, is_leaf=is_sequence)
    values = [leaf.fill() if isinstance(leaf, Sequence) else leaf for leaf in leaves]
    found = [leaf if isinstance(leaf, Sequence) else None for leaf in leaves]
    if not keep_leaves:
        found = [sequence for sequence in found if sequence is not None]
    return jax.tree.unflatten(treedef, values), found


def _wrapped(tree: PyTree, keys: Keys, masks: Mapping[int, Sequence]) -> PyTree:
    """The tree with a Sequence for every leaf that has a key."""
    leaves, treedef = jax.tree.flatten(tree)
    return jax.tree.unflatten(
        treedef,
        [
            leaf if key is None else masks[key]._with(leaf)
            for leaf, key in zip(leaves, keys, strict=True)
        ],
    )
