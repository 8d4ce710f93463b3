"""How a layer takes a Sequence: the one wrapper around every pair of functions.

A layer that works on each step by itself knows nothing of masks: it gets the values, with zeros in
the padding, and the mask is passed on. So does a layer that declares no mode, if it is found to
work on each step by itself (``mixing``); otherwise it is refused. A layer that mixes steps gets the
Sequence, its padding filled with zeros. One that only calls other layers passes it to them. So
padded values go through a select wherever they enter a layer, and so do gradients on their way out:
neither can pass, not even NaN.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax

from . import mixing
from .mixing import Examined
from .receptive_field import EVERYWHERE, ReceptiveField
from .sequence import Sequence, is_sequence, map_sequences, mapped, parts_of, sequences_in
from .types import ApplyFn, InitFn, Key, Params, PyTree, State

if TYPE_CHECKING:
    from .dependence import Verdict


@dataclass(frozen=True)
class SequenceMode:
    """How a layer takes Sequences.

    ``SequenceMode.UNKNOWN`` is for a layer that has to be looked at where it meets a mask or a
    stream, ``SequenceMode.PER_STEP`` for one that is known to work on each step by itself,
    ``SequenceMode("whole", ...)`` for one that mixes steps and takes the Sequence itself, and
    ``SequenceMode.DELEGATE`` for one that only calls other layers.

    Attributes:
      kind: "unknown", "per_step", "whole" or "delegate".
      receptive_field: ``receptive_field(x) -> ReceptiveField`` for the input, a Sequence or a tree
        of them; None where it is not known.
      rows: whether a "whole" layer also takes a Sequence whose mask is of rows alone, (batch,). A
        layer with statistics over the batch does; for others rows are independent.
      function: by which an "unknown" layer is remembered, if not by its ``apply``.
    """

    kind: str = "unknown"
    receptive_field: Callable[[Any], ReceptiveField] | None = None
    rows: bool = False
    function: Callable[..., Any] | None = None

    UNKNOWN: ClassVar[SequenceMode]
    PER_STEP: ClassVar[SequenceMode]
    WHOLE: ClassVar[SequenceMode]
    DELEGATE: ClassVar[SequenceMode]


SequenceMode.UNKNOWN = SequenceMode("unknown")
SequenceMode.PER_STEP = SequenceMode("per_step")
SequenceMode.WHOLE = SequenceMode("whole")
SequenceMode.DELEGATE = SequenceMode("delegate")


def taking_sequences(
    init: InitFn | None, apply: ApplyFn, mode: SequenceMode
) -> tuple[InitFn | None, ApplyFn]:
    """A pair that takes Sequences, from one that is written as ``mode`` says."""
    # Its children have wrappers of their own.
    if mode.kind == "delegate":
        return init, apply

    unknown = mode.kind == "unknown"
    examined = Examined(mode.function or apply)

    def init_of(key: jax.Array, x: PyTree) -> tuple[Params, State]:
        assert init is not None
        return init(key, without_masks(x))

    @functools.wraps(apply)
    def apply_to(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        found = sequences_in(x)
        if not found:
            return apply(params, state, x, key=key, train=train)
        # A mask of rows alone comes from each_step: every row is then a plain input to the layer.
        if mode.kind == "whole" and (mode.rows or found[0].mask.ndim > 1):
            y, state = apply(params, state, filled(x), key=key, train=train)
            return tracked(y, found, mode, x), state
        plain = _of_arrays(examined, apply, params, state, x, key, train)
        states = []

        def of_values(x: PyTree) -> PyTree:
            y, state_after = apply(params, state, x, key=key, train=train)
            states.append(state_after)
            return y

        # The state leaves by a list, because all that is returned gets a mask.
        y = mapped_beside(of_values, x, plain)
        if unknown and not mixing.is_looking():
            verdicts = verdicts_of(examined, apply, params, state, x, key, train)
            count = len(jax.tree.leaves(y, is_leaf=is_sequence))
            if error := mixing.of_state(verdicts[count:]):
                raise error
            y = _checked(y, verdicts[:count], found)
        return y, states[0]

    return init and init_of, apply_to


def mapped_beside(function: Callable[[PyTree], PyTree], x: PyTree, plain: list[bool]) -> PyTree:
    """``function`` of a tree with Sequences, step by step, and a mask on what is made of them.

    Args:
      plain: which outputs are made of arrays alone; [] if there are none.
    """
    if not any(plain):
        return mapped(function, (x,))
    structures: list[Any] = []
    arrays: list[jax.Array] = []

    def of_values(x: PyTree) -> list[jax.Array]:
        leaves, structure = jax.tree.flatten(function(x))
        structures.append(structure)
        arrays.extend(leaf for leaf, own in zip(leaves, plain, strict=True) if own)
        return [leaf for leaf, own in zip(leaves, plain, strict=True) if not own]

    steps = iter(mapped(of_values, (x,)))
    rest = iter(arrays)
    return jax.tree.unflatten(structures[0], [next(rest if own else steps) for own in plain])


def _of_arrays(
    examined: Examined,
    apply: ApplyFn,
    params: Params,
    state: State,
    x: PyTree,
    key: Key,
    train: bool,
) -> list[bool]:
    """Which outputs have nothing of a Sequence in them, and so no mask; [] if there are none."""
    masked = jax.tree.map(is_sequence, x, is_leaf=is_sequence)
    if all(jax.tree.leaves(masked)):
        return []

    def run(params: Params, state: State, keys: list[jax.Array], values: PyTree) -> PyTree:
        return apply(params, state, values, key=keys[0] if keys else None, train=train)[0]

    given = (params, state, [] if key is None else [key])
    lead = sequences_in(x)[0].mask.ndim
    return examined.of_arrays(run, given, without_masks(x), masked, train, lead)


def verdicts_of(
    examined: Examined,
    apply: ApplyFn,
    params: Params,
    state: State,
    x: PyTree,
    key: Key,
    train: bool,
) -> list[Verdict]:
    """What ``apply`` gives for ``x``, whose Sequences have steps; in training, also states."""

    def run(params: Params, state: State, keys: list[jax.Array], values: PyTree) -> PyTree:
        given = keys[0] if keys else None
        y, after = apply(params, state, values, key=given, train=train)
        return (y, after) if train else y

    keys = [] if key is None else [key]
    return examined.verdicts(run, (params, state, keys), *parts_of(x), train)


def _checked(y: PyTree, verdicts: list[Verdict], found: list[Sequence]) -> PyTree:
    """``y`` of a function that was looked at: it works on each step by itself, or is tracked.

    Raises:
      LayerError: for a function that would read the padding.
    """
    leaves, structure = jax.tree.flatten(y, is_leaf=is_sequence)
    if all(sequence._receptive_field is None for sequence in found):
        # What a function does with an array beside the Sequence is its own affair.
        own = [verdict for verdict, leaf in zip(verdicts, leaves, strict=True) if is_sequence(leaf)]
        if error := mixing.first_error(own, mixing.of_output):
            raise error
        return y
    return jax.tree.unflatten(
        structure,
        [
            seen_through(leaf, verdict) if is_sequence(leaf) else leaf
            for leaf, verdict in zip(leaves, verdicts, strict=True)
        ],
    )


def seen_through(sequence: Sequence, verdict: Verdict) -> Sequence:
    """A tracked Sequence that came out of a function with this verdict."""
    field = sequence._receptive_field
    own = ReceptiveField(1, -verdict.window[0], verdict.window[1])
    return sequence._with_field(None if field is None else field.compose(own))


def without_masks(x: PyTree) -> PyTree:
    """The tree with each Sequence replaced by its values."""
    return map_sequences(lambda sequence: sequence.values, x)


def filled(x: PyTree) -> PyTree:
    """The tree with zeros in the padding of each Sequence."""
    return map_sequences(lambda sequence: sequence._with(sequence.fill()), x)


def tracked(y: PyTree, found: list[Sequence], mode: SequenceMode, x: PyTree) -> PyTree:
    """``y`` with its receptive field, if that of the inputs is tracked."""
    fields = [
        sequence._receptive_field for sequence in found if sequence._receptive_field is not None
    ]
    if not fields:
        return y
    # What is not known is assumed to mix all steps.
    own = EVERYWHERE if mode.receptive_field is None else mode.receptive_field(x)
    return with_receptive_field(y, functools.reduce(ReceptiveField.merge, fields).compose(own))


def with_receptive_field(y: PyTree, field: ReceptiveField | None) -> PyTree:
    """The tree with ``field`` set on each Sequence; None clears it."""
    return map_sequences(lambda sequence: sequence._with_field(field), y)


# By the values of a Sequence, so that any body is followed (docs/notes/0010-sequences.md).
def tracking(x: PyTree) -> PyTree:
    """The input with a receptive field on each Sequence, so that the pass follows it."""
    whole = jax.tree.map(
        lambda node: node if is_sequence(node) else Sequence(node), x, is_leaf=is_sequence
    )
    return with_receptive_field(whole, ReceptiveField())
