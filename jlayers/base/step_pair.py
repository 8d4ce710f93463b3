"""StepPair: ``start`` and ``step`` of a layer that is causal in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from . import mixing
from .errors import LayerError
from .mixing import Examined
from .sequence import Sequence, is_sequence
from .sequence_mode import SequenceMode, filled, verdicts_of, without_masks
from .specs import format_short, specs_of
from .types import ApplyFn, Carry, Key, Params, PyTree, State


class StepPair(NamedTuple):
    """``start`` and ``step`` of a causal layer; ``apply`` is one step over the whole sequence.

    Attributes:
      start: ``start(params, state, x, *, capacity) -> carry``: the carry before the first
        step. ``x`` holds specs of a block, without masks; ``capacity`` is how many steps a layer
        that remembers all of them allocates memory for, or None.
      step: ``step(params, state, carry, x, *, key, train) -> (y, carry)`` for a block ``x``,
        (batch, k, ...). A carry of None says that ``x`` is the whole sequence: the layer starts
        by itself, and its new carry is discarded.
    """

    start: Callable[..., Carry]
    step: Callable[..., tuple[PyTree, Carry]]


# A protocol, because layers are defined above this module.
class Steppable(Protocol):
    """What is asked of a layer to step it."""

    @property
    def _apply(self) -> ApplyFn: ...

    @property
    def _apply_to_array(self) -> ApplyFn: ...

    @property
    def _sequence_mode(self) -> SequenceMode: ...

    @property
    def _stream(self) -> StepPair | str | None: ...


def stream_of(layer: Steppable) -> StepPair:
    """The ``StepPair`` of a layer.

    Raises:
      LayerError: for a layer that reads later steps, or all of them.
    """
    found = layer._stream
    if isinstance(found, StepPair):
        return found
    # A layer that takes whole Sequences mixes steps: without a StepPair it cannot be stepped.
    if found is None and layer._sequence_mode.kind != "whole":
        return _of_each_step(layer)
    raise LayerError(
        f"cannot be streamed: {found or 'it reads later steps'}",
        hint="a causal layer: padding='CAUSAL', causal=True, no reverse",
    )


def _of_each_step(layer: Steppable) -> StepPair:
    """The pair of a layer that works on each step by itself: it has no carry."""

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        if layer._sequence_mode.kind == "unknown":
            _check_blocks(layer, params, state, x)
        return {}

    def step(
        params: Params, state: State, carry: Carry | None, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry]:
        y, _ = layer._apply(params, state, x, key=key, train=train)
        # An array beside the block, such as a memory, may have other steps than the block.
        blocks = {jnp.shape(leaf)[:2] for leaf in jax.tree.leaves(x) if jnp.ndim(leaf) > 1}
        for leaf in jax.tree.leaves(y):
            # Otherwise the outputs of blocks would not join to that of the whole sequence.
            if blocks and jnp.shape(leaf)[:2] not in blocks:
                raise LayerError(
                    "cannot be streamed: its output does not have the steps of its input",
                    expected="(batch, time, ...)",
                    got=format_short(specs_of(y)),
                )
        return y, {}

    return StepPair(start, step)


def _check_blocks(layer: Steppable, params: Params, state: State, x: PyTree) -> None:
    """Raises where a layer that declares no mode needs more than the block it is given."""
    apply = layer._apply_to_array
    examined, key = Examined(layer._sequence_mode.function or apply), jax.random.key(0)
    for blocks in blocks_of(x):
        verdicts = verdicts_of(examined, apply, params, state, blocks, key, False)
        if not all(verdict.leads for verdict in verdicts):
            continue
        if error := mixing.first_error(verdicts, mixing.of_stream):
            raise error


def blocks_of(x: PyTree) -> Iterator[PyTree]:
    """The input with its block as Sequences.

    Arrays of other rows or steps, such as a memory, may come with the block: there is an input
    for each number of steps, and the block's are those of the output.
    """
    leaves = jax.tree.leaves(x, is_leaf=is_sequence)
    for lead in dict.fromkeys(leaf.shape[:2] for leaf in leaves if len(leaf.shape) > 1):

        def block(leaf: Any, lead: tuple[int, ...] = lead) -> Any:
            return leaf if is_sequence(leaf) or leaf.shape[:2] != lead else Sequence(leaf)

        yield jax.tree.map(block, without_masks(x))


def filling(stream: StepPair) -> StepPair:
    """The pair of a layer that takes Sequences itself: padded steps are zeros for it."""

    return StepPair(
        lambda params, state, x, *, capacity: stream.start(
            params, state, without_masks(x), capacity=capacity
        ),
        lambda params, state, carry, x, *, key, train: stream.step(
            params, state, carry, filled(x), key=key, train=train
        ),
    )


def check_carry(carry: Carry, after: Carry) -> None:
    """Raises where the new carry has another structure, shape or dtype than the old one."""
    before = specs_of(carry, "the carry")
    if specs_of(after) != before:
        raise LayerError(
            "the carry does not fit the model, or the block has another batch or dtype",
            expected=format_short(specs_of(after)),
            got=format_short(before),
            hint="carry = start(params, state, x) for the blocks' batch and dtype",
        )
