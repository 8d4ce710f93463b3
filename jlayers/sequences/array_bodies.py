"""Bodies of ``compose`` that were written for arrays, run on Sequences.

A body may call functions of ``jnp`` between its children, and these take arrays. Then the body gets
the values, its children get Sequences, and the question is which array belongs to which mask. One
abstract run answers it, in which the batch and the time have sizes that nothing else has: an array
that begins with these sizes there holds steps, whatever the sizes of the real input are.

How to read this file: ``taking_sequences`` wraps the body; ``_discover`` is the abstract run, which
writes a ``Plan``; ``_run`` follows the plan on real Sequences.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from ..base.errors import LayerError
from ..base.layer import Layer
from ..base.scope import Body, InitScope, Scope
from ..base.sequence import Sequence, is_sequence, joined_masks, mapped, sequences_in
from ..base.specs import format_short, spec_key, specs_of
from ..base.tracing import REMEMBERED
from ..base.types import Params, PyTree

# No model has a batch of so many rows, or an axis of so many steps. 55,440 has many divisors, so
# that layers with strides divide it exactly, and different lengths stay different.
_ROWS = 10_007
_STEPS = 55_440
# One factor for each Sequence. No stride has these primes, so a strided length is never another's.
_FACTORS = (1, 13, 17, 19, 23, 29, 31, 37)


class Plan(NamedTuple):
    """Which arrays hold steps. A key names a mask; None is an array without one.

    Attributes:
      inputs: the key of each Sequence in the body's input.
      calls: for each call of a child, the keys of the leaves of its input, and of its output.
      outputs: the keys of the leaves of the body's output.
    """

    inputs: list[int]
    calls: list[tuple[list[int | None], list[int | None]]]
    outputs: list[int | None]


def taking_sequences(body: Body, children: Mapping[str, Layer]) -> Body:
    """The body, wrapped: Sequences that it cannot take as they are become arrays for it."""
    plans: dict[Any, Plan | None] = {}

    def run(f: Scope, x: PyTree) -> PyTree:
        if not sequences_in(x):
            return body(f, x)
        specs = specs_of(x)
        if sequences_in(x)[0].mask.ndim == 1:  # a mask of rows: each row is one plain input
            return mapped(functools.partial(body, f), (x,))
        known = (spec_key(specs), f.train)
        # A plan depends on structure and sizes: it is made once for each, as a trace is.
        if known not in plans:
            if len(plans) >= REMEMBERED:
                plans.pop(next(iter(plans)))
            plans[known] = _plan(body, children, specs, f.train)
        plan = plans[known]
        return body(f, x) if plan is None else _run(body, f, x, plan)

    return run


def _plan(body: Body, children: Mapping[str, Layer], x: PyTree, train: bool) -> Plan | None:
    """None for a body that takes Sequences as they are."""
    # First as it is: most bodies only call children.
    try:
        _abstractly(body, children, x, train)
    # Any exception: JAX and NumPy refuse a Sequence in ways of their own.
    except Exception as first:
        lengths = [sequence.mask.shape[1] for sequence in sequences_in(x)]
        # Sequences of one length may be added in the body: then they share one mask.
        apart = [_STEPS * _FACTORS[i] for i in range(len(lengths))]
        together = [_STEPS * _FACTORS[lengths.index(length)] for length in lengths]
        for steps in (apart, together):
            try:
                return _discover(body, children, x, steps, train)
            except _StepsTogetherError:
                raise
            except Exception:  # its text would show sizes that are not the user's
                pass
        # The user's own error: the body takes neither Sequences nor arrays.
        raise first from None
    return None


class _StepsTogetherError(LayerError):
    pass


def _abstractly(
    body: Callable[[Any, PyTree], PyTree], children: Mapping[str, Layer], x: PyTree, train: bool
) -> None:
    def run(key: jax.Array, x: PyTree) -> PyTree:
        f = InitScope(children, x, key)
        f.train = train
        return body(f, x)

    jax.eval_shape(run, jax.eval_shape(lambda: jax.random.key(0)), x)


def _discover(
    body: Body, children: Mapping[str, Layer], x: PyTree, steps: list[int], train: bool
) -> Plan:
    sizes = iter(steps)
    leads = [tuple(sequence.mask.shape) for sequence in sequences_in(x)]
    plain = sum(not isinstance(node, Sequence) for node in jax.tree.leaves(x, is_leaf=is_sequence))

    def distinct(node: Any) -> Any:
        if not isinstance(node, Sequence):
            shape = tuple(node.shape)
            # An array of the Sequence's own rows and steps, such as positions, gets the same sizes.
            if shape[:2] in leads:
                shape = (_ROWS, steps[leads.index(shape[:2])], *shape[2:])
            elif shape[:1] == leads[0][:1]:
                shape = (_ROWS, *shape[1:])
            return jax.ShapeDtypeStruct(shape, node.dtype)
        lead = (_ROWS, next(sizes))
        values = jax.ShapeDtypeStruct((*lead, *node.shape[2:]), node.dtype)
        return node._with(values, jax.ShapeDtypeStruct(lead, bool))._with_field(None)

    plan = Plan(steps, [], [])

    def outer(f: Scope, x: PyTree) -> PyTree:
        values, masks = _values(x)
        found = dict(zip(steps, masks, strict=True))
        y = body(_Discovering(f, found, plan, plain == 0), values)  # type: ignore[arg-type]
        plan.outputs.extend(_keys(y, found))
        return y

    _abstractly(outer, children, jax.tree.map(distinct, x, is_leaf=is_sequence), train)
    return plan


# No subclass of Scope: f is a scope already, of any mode, and this works around it.
class _Values:
    """The scope of a body that gets values, while its children get Sequences."""

    def __init__(self, f: Scope, masks: dict[int, Any], plan: Plan):
        self._f, self._masks, self._plan = f, masks, plan

    def __getattr__(self, name: str) -> Any:
        return self[name] if name in self._f.children else getattr(self._f, name)

    def __getitem__(self, name: str) -> Any:
        return _Child(functools.partial(self._call, self._f[name]), self._f[name])

    def positions(self, x: PyTree) -> PyTree:
        return self._call(self._f.positions, x)

    def _call(self, child: Callable[[PyTree], PyTree], x: PyTree) -> PyTree:
        raise NotImplementedError


class _Child:
    def __init__(self, call: Callable[[PyTree], PyTree], child: Any):
        self._call, self._child = call, child

    def __call__(self, x: PyTree) -> PyTree:
        return self._call(x)

    @property
    def params(self) -> Params:
        params: Params = self._child.params
        return params


class _Discovering(_Values):
    """Records the masks of what each call takes and returns.

    Args:
      all_steps: whether the body's input holds nothing but steps. Then an array of the batch
        without steps must have been computed from several of them.
    """

    def __init__(self, f: Scope, masks: dict[int, Any], plan: Plan, all_steps: bool):
        super().__init__(f, masks, plan)
        self._all_steps = all_steps

    def _call(self, child: Callable[[PyTree], PyTree], x: PyTree) -> PyTree:
        taken = _keys(x, self._masks)
        for leaf, key in zip(jax.tree.leaves(x), taken, strict=True):
            shape = jax.numpy.shape(leaf)
            # Multiples too: a reshape may have folded rows or steps into another axis.
            of_rows = any(size % _ROWS == 0 and size for size in shape)
            of_steps = any(size % steps == 0 and size for size in shape for steps in self._masks)
            if key is None and of_rows and (of_steps or self._all_steps):
                raise _StepsTogetherError(
                    "the body mixes the steps and the padding of a Sequence before a child",
                    hint="GlobalAvgPool(), each_step(layer) or on_sequence(function) as children "
                    "for what mixes steps",
                )
        y, masks = _values(child(_wrapped(x, taken, self._masks)), keep_leaves=True)
        given = [None if mask is None else mask.mask.shape[-1] for mask in masks]
        self._masks.update(
            {key: mask for key, mask in zip(given, masks, strict=True) if key is not None}
        )
        self._plan.calls.append((taken, given))
        return y


class _Following(_Values):
    """Follows the plan."""

    def __init__(self, f: Scope, masks: dict[int, Any], plan: Plan):
        super().__init__(f, masks, plan)
        self._calls = iter(plan.calls)

    def _call(self, child: Callable[[PyTree], PyTree], x: PyTree) -> PyTree:
        # The calls come in the order of the abstract run: a body may not depend on values.
        taken, given = next(self._calls)
        y, masks = _values(child(_wrapped(x, taken, self._masks)), keep_leaves=True)
        for key, mask in zip(given, masks, strict=True):
            if key is not None:
                _join(self._masks, key, mask)
        return y


def _run(body: Body, f: Scope, x: PyTree, plan: Plan) -> PyTree:
    values, found = _values(x)
    masks: dict[int, Sequence] = {}
    for key, sequence in zip(plan.inputs, found, strict=True):
        _join(masks, key, sequence)
    y = body(_Following(f, masks, plan), values)  # type: ignore[arg-type]
    if None in plan.outputs:
        raise LayerError(
            "the body must return steps for a Sequence",
            expected="(batch, time, ...)",
            got=format_short(specs_of(y)),
            hint="GlobalAvgPool() or on_sequence(function) as a child for what mixes steps",
        )
    return _wrapped(y, plan.outputs, masks)


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


def _keys(tree: PyTree, masks: Mapping[int, Any]) -> list[int | None]:
    """The key of each leaf that begins with the rows and the steps of a mask."""
    shapes = [jax.numpy.shape(leaf) for leaf in jax.tree.leaves(tree)]
    return [
        shape[1] if len(shape) > 1 and shape[0] == _ROWS and shape[1] in masks else None
        for shape in shapes
    ]


def _wrapped(tree: PyTree, keys: list[int | None], masks: Mapping[int, Sequence]) -> PyTree:
    """The tree with a Sequence for every leaf that has a key."""
    leaves, treedef = jax.tree.flatten(tree)
    return jax.tree.unflatten(
        treedef,
        [
            leaf if key is None else masks[key]._with(leaf)
            for leaf, key in zip(leaves, keys, strict=True)
        ],
    )
