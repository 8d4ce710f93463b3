"""StepPair: ``start`` and ``step`` of a layer that is causal in time; Stepping: what a layer holds.

How to read this file: ``stream_of`` gives the ``Stepping`` of any layer, for ``_of_each_step`` one
without a carry. Where blocks are whole sequences (``taking``), it also gives that of a layer that
needs them whole: so ``carried`` asks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
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


class Stepping(NamedTuple):
    """How a layer takes a block and a carry, also in training.

    Attributes:
      start: as of a ``StepPair``.
      advance: ``advance(params, state, carry, x, *, key, train) -> (y, carry, state)``: a ``step``
        that also gives the next state.
      whole: why a block has to be the whole sequence, if it has to; the carry then is what the
        layer begins with and ends with.
    """

    start: Callable[..., Carry]
    advance: Callable[..., tuple[PyTree, Carry, State]]
    whole: str | None = None

    @classmethod
    def of(cls, pair: StepPair, whole: str | None = None) -> Stepping:
        """That of a pair without state, or whose state does not change."""

        def advance(
            params: Params, state: State, carry: Carry | None, x: PyTree, *, key: Key, train: bool
        ) -> tuple[PyTree, Carry, State]:
            return *pair.step(params, state, carry, x, key=key, train=train), state

        return cls(pair.start, advance, whole)


class Blocks:
    """What blocks are in this context.

    Attributes:
      whole: they are whole sequences.
      streamed: they are parts of one, also in training.
      met: a layer was met whose blocks have to be whole.
    """

    def __init__(self, whole: bool = False, streamed: bool = False):
        self.whole, self.streamed, self.met = whole, streamed, False


_blocks: ContextVar[Blocks] = ContextVar("what blocks are", default=Blocks())  # noqa: B039


@contextlib.contextmanager
def taking(blocks: Blocks) -> Iterator[Blocks]:
    """Inside it blocks are what ``blocks`` says."""
    token = _blocks.set(blocks)
    try:
        yield blocks
    finally:
        _blocks.reset(token)


def are_whole() -> bool:
    """Whether a block is the whole sequence here."""
    return _blocks.get().whole


def are_streamed() -> bool:
    """Whether a block is a part of a sequence here, whose statistics are not known."""
    return _blocks.get().streamed


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
    def _stream(self) -> Stepping | str | None: ...


def stream_of(layer: Steppable) -> Stepping:
    """The ``Stepping`` of a layer.

    Raises:
      LayerError: for a layer that reads later steps, or all of them.
    """
    found: Stepping | str | None = layer._stream
    if isinstance(found, Stepping):
        if found.whole is None:
            return found
        blocks = _blocks.get()
        if blocks.whole:
            blocks.met = True
            return found
        found = found.whole
    # A layer that takes whole Sequences mixes steps: without a StepPair it cannot be stepped.
    if found is None and layer._sequence_mode.kind != "whole":
        return _of_each_step(layer)
    raise LayerError(
        f"cannot be streamed: {found or 'it reads later steps'}",
        hint="a causal layer: padding='CAUSAL', causal=True, no reverse",
    )


def _of_each_step(layer: Steppable) -> Stepping:
    """That of a layer that works on each step by itself: it has no carry."""

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        if layer._sequence_mode.kind == "unknown" and not _without_time(x):
            _check_blocks(layer, params, state, x)
        return {}

    def advance(
        params: Params, state: State, carry: Carry | None, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        y, state = layer._apply(params, state, x, key=key, train=train)
        if _without_time(x):
            return y, {}, state
        # An array beside the block, such as a memory, may have other steps than the block.
        blocks = {jnp.shape(leaf)[:2] for leaf in jax.tree.leaves(x) if jnp.ndim(leaf) > 1}
        # A layer of the features, such as Dense, may be on a vector beside the block.
        if layer._sequence_mode.kind == "per_step" and not any(map(_has_steps, jax.tree.leaves(x))):
            blocks = set()
        for leaf in jax.tree.leaves(y):
            # Otherwise the outputs of blocks would not join to that of the whole sequence.
            if blocks and jnp.shape(leaf)[:2] not in blocks:
                raise LayerError(
                    "cannot be streamed: its output does not have the steps of its input",
                    expected="(batch, time, ...)",
                    got=format_short(specs_of(y)),
                )
        return y, {}, state

    return Stepping(start, advance)


def _has_steps(leaf: Any) -> bool:
    # As bidirectional has it: a floating output of rank 2 is of a step, one of rank 3 has steps.
    return jnp.ndim(leaf) > 2 or not jnp.issubdtype(leaf.dtype, jnp.floating)


def _without_time(x: PyTree) -> bool:
    """Whether ``x`` comes after a layer that gives the last step of a whole sequence alone."""
    return are_whole() and not any(map(_has_steps, jax.tree.leaves(without_masks(x))))


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


def filling(stream: Stepping) -> Stepping:
    """That of a layer that takes Sequences itself: padded steps are zeros for it."""

    return Stepping(
        lambda params, state, x, *, capacity: stream.start(
            params, state, without_masks(x), capacity=capacity
        ),
        lambda params, state, carry, x, *, key, train: stream.advance(
            params, state, carry, filled(x), key=key, train=train
        ),
        stream.whole,
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
