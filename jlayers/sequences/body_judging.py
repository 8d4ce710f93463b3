"""The scope in which a body is looked at, at some size: which arrays its children are given.

Calls of children are not looked into: each is one equation, which has the number of the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as SizesOf
from typing import Any, NamedTuple

import jax
from jax.typing import DTypeLike

from ..base import mixing
from ..base.added_losses import check_loss
from ..base.collecting import trace_level
from ..base.layer import Layer
from ..base.scope import InitScope, Variable
from ..base.sequence import Sequence, is_sequence, sequences_in
from ..base.sequence_mode import without_masks
from ..base.specs import specs_of
from ..base.tracing import Trace, trace
from ..base.types import Initializer, PyTree, Spec
from .body_plan import INPUT, LOSS, CalledInsideError, Keys, Plan, Source
from .body_sources import key_of


class NotTracedError(Exception):
    """The body has no program at sizes other than its own."""


class StoppedError(BaseException):
    """A body is left at a call whose keys are guessed wrongly; no ``except`` of it holds it."""


class Guesses(NamedTuple):
    """The keys of what the first calls are given, where shapes do not tell.

    Attributes:
      keys: for each of them.
      sure: how many of them are known to be right: an error of theirs is one.
    """

    keys: list[Keys]
    sure: int


class Asked(NamedTuple):
    """A call of a child, or a loss that is added: without a child.

    Attributes:
      x: specs of what it is given.
    """

    name: str
    child: Layer | None
    x: PyTree


class Judging(InitScope):
    """Runs a body at some size, on values or on Sequences.

    Calls of its children are not looked into. Its own names begin with an underscore: others are
    those of children, such as ``f.keys``.
    """

    def __init__(
        self,
        children: Mapping[str, Layer],
        x: PyTree,
        key: jax.Array,
        sized: PyTree,
        plan: Plan | None,
        whole: bool,
        guesses: Guesses | None,
    ):
        super().__init__(children, x, key)
        # The first of each length: the number of a mask is its place here.
        masks = {sequence.mask.shape[1]: sequence for sequence in sequences_in(sized)}
        self._judged_masks = list(masks.values())
        self._judged_own = list(masks.values())
        self._judged_inputs = [
            Source(INPUT, i, key_of(leaf.shape, self._judged_leads()), is_sequence(leaf))
            for i, leaf in enumerate(jax.tree.leaves(sized, is_leaf=is_sequence))
        ]
        self._judged_calls: list[tuple[Keys, Keys]] = []
        self._judged_given: list[PyTree] = []
        self._judged_outputs: Keys = []
        self._judged_stated: list[jax.Array] = []
        self._judged_inside: str | None = None
        self._plan = plan
        self._whole = whole
        self._guesses = guesses
        self._judged_asked: list[Asked] = []
        self._level = trace_level()
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

    def _judged_leads(self) -> list[tuple[int, ...]]:
        """Rows and steps of each mask."""
        return [tuple(mask.mask.shape) for mask in self._judged_masks]

    def _keys_of(self, tree: PyTree, planned: Keys | None) -> Keys:
        """The key of each leaf: as planned, or by its rows and steps."""
        leaves = jax.tree.leaves(tree)
        leads = self._judged_leads()
        if planned is None:
            return [key_of(jax.numpy.shape(leaf), leads) for leaf in leaves]
        for leaf, key in zip(leaves, planned, strict=True):
            if key is not None and jax.numpy.shape(leaf)[:2] != leads[key]:
                raise NotTracedError
        return planned

    def _call(self, name: str, /, *xs: PyTree, **named: PyTree) -> PyTree:
        if trace_level() != self._level:
            # What the child is given belongs to another program: in this one, it is a constant.
            if not self._whole:
                raise CalledInsideError(name)
            self._judged_inside = name
        return super()._call(name, *xs, **named)

    def _run_child(self, name: str, child: Layer, x: PyTree) -> PyTree:
        planned = self._plan.calls[len(self._judged_calls)] if self._plan else None
        values = without_masks(x)
        self._judged_given.append(values)
        if self._guesses is None:
            taken = self._keys_of(values, None if planned is None else planned[0])
            found = self._of_child(child, x, taken)
        else:
            self._judged_asked.append(Asked(name, child, specs_of(x)))
            taken, found = self._guessed(child, x, self._guesses)
        self._found.setdefault(name, found)
        self._inputs.setdefault(name, []).append(specs_of(x))
        returned = numbered(found.out, self._judged_masks)
        if planned is not None and returned != planned[1]:
            raise NotTracedError
        self._judged_calls.append((taken, returned))
        out = found.out if self._whole else without_masks(found.out)
        leaves, structure = jax.tree.flatten(out)
        given = jax.tree.leaves(x if self._whole else values)
        number = len(self._judged_calls) - 1
        return jax.tree.unflatten(structure, mixing.opaque(leaves, given, str(number)))

    def _of_child(self, child: Layer, x: PyTree, keys: Keys) -> Trace:
        masks = self._judged_masks
        return trace(child, specs_of(x if self._whole else with_masks(x, keys, masks)))

    def _guessed(self, child: Layer, x: PyTree, guesses: Guesses) -> tuple[Keys, Trace]:
        """The keys of what a child is given, as guessed, and its trace."""
        number = len(self._judged_calls)
        by_shape = self._keys_of(without_masks(x), None)
        # Without masks the shapes of its result are the same, mostly, and nothing is refused.
        tries: list[Keys] = [[None] * len(by_shape), by_shape]
        if number < len(guesses.keys) and _fits(guesses.keys[number], by_shape):
            tries.insert(0, guesses.keys[number])
        for keys in tries:
            try:
                return keys, self._of_child(child, x, keys)
            except Exception:
                if number < guesses.sure:
                    raise
        raise StoppedError

    def _judged_call(self, number: int, known: object) -> tuple[Keys, Keys]:
        """The keys of what a call takes and gives."""
        return self._judged_calls[number]

    def add_loss(self, value: jax.Array) -> None:
        self._judged_given.append(check_loss(value))
        self._judged_asked.append(Asked("", None, None))
        self._judged_calls.append(([LOSS], []))

    def _entry(self, tree: Any, name: str, init: Initializer, spec: Spec) -> jax.Array:
        # Not what the initialiser makes: it may be all zeros, and trained parameters are not.
        (value,) = mixing.opaque([spec], [])
        return value


def with_masks(tree: PyTree, keys: Keys, masks: list[Sequence]) -> PyTree:
    """The tree with a Sequence for every array that has a key."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_sequence)
    # A Sequence that the body made has a mask of its own.
    masked = [
        leaf if key is None or is_sequence(leaf) else masks[key]._with(leaf)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, masked)


def numbered(out: PyTree, masks: list[Sequence]) -> Keys:
    """The number of the mask of each leaf, to which new ones are added."""
    keys: Keys = []
    for leaf in jax.tree.leaves(out, is_leaf=is_sequence):
        if not is_sequence(leaf):
            keys.append(None)
            continue
        lengths = [mask.mask.shape[1] for mask in masks]
        if leaf.mask.shape[1] not in lengths:
            masks.append(leaf)
            lengths.append(leaf.mask.shape[1])
        keys.append(lengths.index(leaf.mask.shape[1]))
    return keys


def _fits(keys: Keys, by_shape: Keys) -> bool:
    """Whether a call may be given these keys: it may be another than the one they are of."""
    return len(keys) == len(by_shape) and all(
        key in (None, like) for key, like in zip(keys, by_shape, strict=True)
    )
