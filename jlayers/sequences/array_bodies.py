"""Bodies of ``compose`` that were written for arrays, run on Sequences and in streams.

A body may call functions of ``jnp`` between its children, and these take arrays. Then the body gets
the values, its children get Sequences, and two questions arise: which array belongs to which mask,
and whether the body's own arithmetic acts on each step alone. ``body_programs`` answers both.

How to read this file: ``taking_sequences`` wraps the body, ``checking_streams`` asks about streams;
both follow a ``Plan``. ``_check_masks`` refuses what would read padding, and ``_run`` follows the
plan on real Sequences.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any

import jax

from ..base import mixing
from ..base.collecting import wanted
from ..base.errors import LayerError
from ..base.layer import Layer
from ..base.masks import SharedStepsError, joined_masks
from ..base.memo import remember
from ..base.receptive_field import EVERYWHERE
from ..base.scope import Body, InitScope, Scope
from ..base.sequence import (
    Sequence,
    is_sequence,
    made_of_steps,
    sequences_in,
)
from ..base.sequence_mode import mapped_beside, seen_through
from ..base.specs import format_short, spec_key, specs_of
from ..base.step_pair import blocks_of
from ..base.types import Params, PyTree
from .body_plan import (
    INPUT,
    LOSS,
    STATE,
    CalledInsideError,
    Keys,
    Plan,
    Source,
    Sources,
    tried,
)

if TYPE_CHECKING:
    from ..base.dependence import Verdict


def taking_sequences(body: Body, children: Mapping[str, Layer]) -> Body:
    """The body, wrapped: Sequences that it cannot take as they are become arrays for it."""
    # A plan in a tuple, as None is one.
    plans: dict[Hashable, tuple[Plan | None]] = {}

    def run(f: Scope, x: PyTree) -> PyTree:
        found = sequences_in(x)
        if not found:
            return body(f, x)
        specs = specs_of(x)
        if found[0].mask.ndim == 1:  # a mask of rows: each row is one plain input
            plain: list[bool] = []
            if not all(map(is_sequence, jax.tree.leaves(x, is_leaf=is_sequence))):
                from .body_programs import of_arrays

                plain = of_arrays(body, children, specs, f.train)
            return mapped_beside(functools.partial(body, f), x, plain)
        tracked = any(sequence._receptive_field is not None for sequence in found)
        known = (spec_key(specs), f.train, mixing.is_looking())
        # A plan depends on structure and sizes: it is made once for each, as a trace is.
        made = plans.get(known)
        if made is None:
            made = remember(plans, known, (_plan(body, children, specs, f.train, tracked),))
        (plan,) = made
        if plan is None:
            return body(f, x)
        if not mixing.is_looking():
            _check_masks(plan, tracked)
        return _run(body, f, x, plan)

    return run


def checking_streams(body: Body, children: Mapping[str, Layer]) -> Callable[[PyTree], None]:
    """A check for ``start``: raises where the body's own arithmetic needs more than a block."""
    taken: dict[Hashable, bool] = {}

    def check(x: PyTree) -> None:
        known = spec_key(specs_of(x))
        # A stream is started for each request, and a body is judged once for each input spec.
        if taken.get(known) is None:
            _check_stream(body, children, x)
            remember(taken, known, True)

    return check


def _check_stream(body: Body, children: Mapping[str, Layer], x: PyTree) -> None:
    from .body_programs import judged_plan

    for blocks in blocks_of(x):
        plan = tried(judged_plan, body, children, blocks, False)
        if plan is None:
            continue
        for key, verdicts, is_output in plan.leaves():
            if key in (LOSS, STATE):
                continue  # a stream drops both
            if key is None and is_output:
                break  # the steps of a memory: the block's are those of the output
            for verdict in verdicts if key is None else [verdicts[key]]:
                if error := mixing.of_stream(verdict._replace(rows=False), "the body"):
                    raise error


def _check_masks(plan: Plan, tracked: bool) -> None:
    """Raises where a body's arithmetic would read the padding.

    Args:
      tracked: whether the receptive field is asked for, and not the values.
    """
    for key, verdicts, is_output in plan.leaves():
        error = None
        if key == STATE:
            error = mixing.of_state(verdicts, "the body")
        elif key == LOSS:
            # A loss that nothing collects, in a stream for example, may be of anything.
            error = _of_loss(verdicts) if wanted().losses else None
        elif key is None:
            error = _of_constant(verdicts, tracked, is_output)
        elif not tracked:
            # First what mixes steps, also those of another mask: how many there are is a position
            # too.
            mixed = [verdict._replace(rows=False, place=False) for verdict in verdicts]
            error = mixing.first_error(
                [*mixed, verdicts[key]], lambda verdict: mixing.of_mask(verdict, "the body")
            )
        if error:
            raise error


def _of_loss(verdicts: list[Verdict]) -> LayerError | None:
    """The error of a loss that the body adds, which may hold no steps."""
    mixed = next((verdict for verdict in verdicts if not verdict.constant), None)
    return mixed and LayerError(
        "the body adds a loss of the steps and the padding of a Sequence",
        got=mixing.reason_of(mixed),
        hint="on_sequence(function) as a child: x.map(...).mean() is of valid steps",
    )


def _of_constant(verdicts: list[Verdict], tracked: bool, is_output: bool) -> LayerError | None:
    """The error of an array without steps, which a child is given or the body returns."""
    placed = [verdict for verdict in verdicts if verdict.constant and verdict.place]
    if placed and not tracked and (error := mixing.of_mask(placed[0], "the body")):
        return error
    mixed = next((verdict for verdict in verdicts if not verdict.constant), None)
    # An output without steps has an error of its own, which shows its shape.
    if is_output or mixed is None:
        return None
    return LayerError(
        "the body mixes the steps and the padding of a Sequence before a child",
        got=mixing.reason_of(mixed),
        hint="GlobalAvgPool(), each_step(layer) or on_sequence(function) as children "
        "for what mixes steps",
    )


def _plan(
    body: Body, children: Mapping[str, Layer], x: PyTree, train: bool, tracked: bool
) -> Plan | None:
    """None for a body that takes Sequences as they are, as those do that only call children.

    Raises:
      LayerError: for one that does, and places steps by their number.
    """
    # Only here: most programs never import the analysis.
    from .body_programs import judged_plan

    judged = functools.partial(judged_plan, body, children, x, train)
    # What a Sequence is multiplied with may be a summary of it: only a plan shows that.
    if tracked and (plan := tried(judged)):
        return plan
    try:
        _abstractly(body, children, x, train)
    except SharedStepsError:
        raise
    except Exception as first:
        # Its own text would show sizes that are not the user's, who is told of the first error: the
        # body takes neither Sequences nor arrays.
        if plan := tried(judged):
            return plan
        raise first from None
    if not mixing.is_looking() and (whole := tried(judged, True)):
        # What such a body does with steps is its own affair: it has the masks. But numbers of steps
        # are not valid steps, and no mask shows that.
        for key, verdicts, _ in whole.leaves():
            if key == STATE:
                verdicts = [verdict for verdict in verdicts if verdict.constant]
                if error := mixing.of_state(verdicts, "the body"):
                    raise error
                continue
            for verdict in verdicts:
                alone = verdict._replace(rows=False)
                if alone.kind == "each" and (error := mixing.of_mask(alone, "the body")):
                    raise CalledInsideError(whole.inside) if whole.inside else error
    return None


def _abstractly(
    body: Callable[[Any, PyTree], PyTree], children: Mapping[str, Layer], x: PyTree, train: bool
) -> None:
    def run(key: jax.Array, x: PyTree) -> PyTree:
        f = InitScope(children, x, key)
        f.train = train
        return body(f, x)

    jax.eval_shape(run, jax.eval_shape(lambda: jax.random.key(0)), x)


class _Following:
    """The scope of a body that gets values, while its children get Sequences, as planned."""

    def __init__(self, f: Scope, plan: Plan):
        self._f, self._plan = f, plan
        # Of the sources that have one, and of all together that have as many steps.
        self._masks: dict[tuple[int, int], Sequence] = {}
        self._together: dict[int, Sequence] = {}
        self._calls = iter(plan.calls)
        self._verdicts = iter(plan.verdicts)
        self._sources = iter(plan.sources)
        # The calls that have seen all steps, by what they give without steps.
        self._summaries: set[int] = set()
        self._number = INPUT
        if "positions" in f.children:
            self.__dict__["positions"] = self["positions"]

    def __getattr__(self, name: str) -> Any:
        return self[name] if name in self._f.children else getattr(self._f, name)

    def __getitem__(self, name: str) -> Any:
        return _Child(functools.partial(self._call, self._f[name]), self._f[name])

    def positions(self, x: PyTree) -> PyTree:
        return self._call(self._f.positions, x)

    def add_loss(self, value: jax.Array) -> None:
        next(self._calls)
        self._number += 1
        next(self._sources)
        if self._plan.verdicts:
            next(self._verdicts)
        self._f.add_loss(value)

    def _call(self, child: Callable[[PyTree], PyTree], x: PyTree) -> PyTree:
        # The calls come in the order of the abstract run: a body may not depend on values.
        taken, given = next(self._calls)
        self._number += 1
        wrapped = self._wrapped(x, taken)
        y, found = _values(child(wrapped))
        # What comes out without steps has seen all of them.
        if None in given and any(map(made_of_steps, sequences_in(wrapped))):
            self._summaries.add(self._number)
        self._add(given, found)
        return y

    def _add(self, keys: Keys, found: list[Sequence | None]) -> None:
        """Adds the masks of the input, or of what the last call gives."""
        for leaf, (key, sequence) in enumerate(zip(keys, found, strict=True)):
            if key is None or sequence is None:
                continue
            self._masks[self._number, leaf] = sequence
            known = self._together.get(key)
            self._together[key] = sequence if known is None else _joined(known, sequence)

    def _wrapped(self, tree: PyTree, keys: Keys) -> PyTree:
        """The tree with a Sequence for every leaf that has a key, its receptive field grown."""
        leaves, structure = jax.tree.flatten(tree, is_leaf=is_sequence)
        found = []
        for leaf, key in zip(leaves, keys, strict=True):
            sources = next(self._sources)
            verdicts = next(self._verdicts) if self._plan.verdicts else None
            # A Sequence that the body made has a mask of its own.
            if key is not None and not is_sequence(leaf):
                leaf = self._mask(key, sources)._with(leaf)
                leaf = leaf if verdicts is None else self._seen(leaf, verdicts[key], sources)
            found.append(leaf)
        return jax.tree.unflatten(structure, found)

    def _mask(self, key: int, sources: Sources) -> Sequence:
        """A Sequence with the mask of what is in an array."""
        own = [self._masks[s.call, s.leaf] for s in sorted(_masked(sources)) if s.key == key]
        # An array of neither, of zeros for example, has the steps of all.
        return functools.reduce(_joined, own) if own else self._together[key]

    def _seen(self, sequence: Sequence, verdict: Verdict, sources: Sources) -> Sequence:
        # Also one whose own steps are not tracked: it is made of those that are.
        if self._summaries.intersection(source.call for source in sources if not source.masked):
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
    following = _Following(f, plan)
    following._add(plan.inputs, found)
    y = body(following, values)  # type: ignore[arg-type]
    # An array without steps, such as a carry, may come from a child; the body makes none of steps.
    mixed = (
        key is None and any(not verdict.constant for verdict in verdicts)
        for key, verdicts, is_output in (plan.leaves() if plan.verdicts else ())
        if is_output
    )
    if any(mixed):
        raise LayerError(
            "the body must return steps for a Sequence",
            expected="(batch, time, ...)",
            got=format_short(specs_of(y)),
            hint="GlobalAvgPool() or on_sequence(function) as a child for what mixes steps",
        )
    return following._wrapped(y, plan.outputs)


def _joined(one: Sequence, other: Sequence) -> Sequence:
    """The steps that are valid in both, made of both."""
    field = one._receptive_field
    if field is not None and other._receptive_field is not None:
        field = field.merge(other._receptive_field)
    return one._with(one.values, joined_masks(one.mask, other.mask))._with_field(field)


def _masked(sources: Sources) -> list[Source]:
    return [source for source in sources if source.masked]


def _values(tree: PyTree) -> tuple[PyTree, list[Sequence | None]]:
    """The tree of values, and for each leaf its Sequence, or None."""
    leaves, treedef = jax.tree.flatten(tree, is_leaf=is_sequence)
    values = [leaf.fill() if isinstance(leaf, Sequence) else leaf for leaf in leaves]
    found = [leaf if isinstance(leaf, Sequence) else None for leaf in leaves]
    return jax.tree.unflatten(treedef, values), found
