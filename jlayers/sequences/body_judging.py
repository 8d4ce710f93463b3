"""The scope in which a body is looked at, at some size: which arrays its children are given.

Calls of children are not looked into: each is one equation, which has the number of the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as SizesOf
from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state
from jax.typing import DTypeLike

from ..base import mixing
from ..base.added_losses import check_loss
from ..base.layer import Layer
from ..base.scope import InitScope, Variable
from ..base.sequence import Sequence, is_sequence, sequences_in
from ..base.sequence_mode import without_masks
from ..base.specs import specs_of
from ..base.tracing import trace
from ..base.types import Initializer, PyTree, Spec
from .body_plan import INPUT, LOSS, CalledInsideError, Keys, Plan, Source
from .body_sources import key_of


class NotTracedError(Exception):
    """The body has no program at sizes other than its own."""


class StoppedError(BaseException):
    """A body is left where the keys of a call are not yet decided; no ``except`` of it holds it."""


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
        decided: list[Keys] | None,
    ):
        super().__init__(children, x, key)
        # The first of each length: the number of a mask is its place here.
        masks = {sequence.mask.shape[1]: sequence for sequence in sequences_in(sized)}
        self._judged_masks = list(masks.values())
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
        self._decided = decided
        # The child that the body calls where it is left, and its input; None at its end.
        self._judged_asked: tuple[str, Layer, Any] | None = None
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
        if get_opaque_trace_state() != self._level:
            # What the child is given belongs to another program: in this one, it is a constant.
            if not self._whole:
                raise CalledInsideError(name)
            self._judged_inside = name
        return super()._call(name, *xs, **named)

    def _run_child(self, name: str, child: Layer, x: PyTree) -> PyTree:
        number = len(self._judged_calls)
        planned = self._plan.calls[number] if self._plan else None
        values = without_masks(x)
        self._judged_given.append(values)
        if self._decided is None:
            taken = self._keys_of(values, None if planned is None else planned[0])
        elif number < len(self._decided):
            taken = self._decided[number]
        else:
            self._judged_asked = (name, child, jax.tree.structure(values))
            raise StoppedError
        inputs = specs_of(x if self._whole else self._with_masks(x, taken))
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
        out = found.out if self._whole else without_masks(found.out)
        leaves, structure = jax.tree.flatten(out)
        given = jax.tree.leaves(x if self._whole else values)
        return jax.tree.unflatten(structure, mixing.opaque(leaves, given, str(number)))

    def _with_masks(self, tree: PyTree, keys: Keys) -> PyTree:
        """The tree with a Sequence for every array that has a key."""
        leaves, structure = jax.tree.flatten(tree, is_leaf=is_sequence)
        # A Sequence that the body made has a mask of its own.
        masked = [
            leaf if key is None or is_sequence(leaf) else self._judged_masks[key]._with(leaf)
            for leaf, key in zip(leaves, keys, strict=True)
        ]
        return jax.tree.unflatten(structure, masked)

    def add_loss(self, value: jax.Array) -> None:
        self._judged_given.append(check_loss(value))
        if self._decided is not None and len(self._judged_calls) == len(self._decided):
            self._decided.append([LOSS])
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
