"""StepPair: the second pair of a layer that is causal in time, and where layers get theirs from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from .errors import LayerError
from .sequence_mode import filled, without_masks
from .specs import PyTree, format_short, specs_of

if TYPE_CHECKING:
    from .layer import Layer

Carry = dict[str, Any]


class StepPair(NamedTuple):
    """``start`` and ``step`` of a causal layer; ``apply`` is one step from the beginning.

    Attributes:
      start: ``start(params, state, x, *, capacity) -> carry``: what is known before the first
        step. ``x`` holds specs of a block, without masks; ``capacity`` is how many steps a layer
        that remembers all of them has to have room for, or None.
      step: ``step(params, state, carry, x, *, key, train) -> (y, carry)`` for a block ``x``,
        (batch, k, ...). A carry of None says that ``x`` is the whole sequence: the layer starts
        by itself, and the carry that it returns is thrown away.
    """

    start: Callable[..., Carry]
    step: Callable[..., tuple[PyTree, Carry]]


def stream_of(layer: Layer) -> StepPair:
    """The stream of a layer.

    Raises:
      LayerError: for one that reads later steps, or all of them.
    """
    found = layer._stream
    if isinstance(found, StepPair):
        return found
    if found is None and layer._sequence_mode.kind != "whole":
        return _of_each_step(layer)
    raise LayerError(
        f"cannot be streamed: {found or 'it reads later steps'}",
        hint="a causal layer: padding='CAUSAL', causal=True, no reverse",
    )


def _of_each_step(layer: Layer) -> StepPair:
    """The stream of a layer without a memory."""

    def step(
        params: Any, state: Any, carry: Carry, x: PyTree, *, key: Any, train: bool
    ) -> tuple[PyTree, Carry]:
        y, _ = layer._apply(params, state, x, key=key, train=train)
        blocks = {jnp.shape(leaf)[:2] for leaf in jax.tree.leaves(x) if jnp.ndim(leaf) > 1}
        for leaf in jax.tree.leaves(y):
            if blocks and jnp.shape(leaf)[:2] not in blocks:
                raise LayerError(
                    "cannot be streamed: its output has other steps than its input",
                    expected="(batch, time, ...)",
                    got=format_short(specs_of(y)),
                )
        return y, {}

    return StepPair(lambda params, state, x, *, capacity: {}, step)


def of_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """``apply`` of a causal layer: its ``step`` over the whole sequence."""

    def apply(
        params: Any, state: Any, x: PyTree, *, key: Any, train: bool
    ) -> tuple[PyTree, dict[str, Any]]:
        return step(params, state, None, x, key=key, train=train)[0], state

    return apply


def filling(stream: StepPair) -> StepPair:
    """The stream of a layer that takes Sequences itself: it sees no padding, and no masks first."""

    def start(params: Any, state: Any, x: PyTree, *, capacity: int | None) -> Carry:
        return stream.start(params, state, without_masks(x), capacity=capacity)

    def step(params: Any, state: Any, carry: Any, x: PyTree, *, key: Any, train: bool) -> Any:
        return stream.step(params, state, carry, filled(x), key=key, train=train)

    return StepPair(start, step)


def check_carry(carry: Carry, after: Carry) -> None:
    """Raises where a step gave another kind of carry than it was given."""
    before = specs_of(carry, "the carry")
    if specs_of(after) != before:
        raise LayerError(
            "the carry does not fit the model, or the block has another batch or dtype",
            expected=format_short(specs_of(after)),
            got=format_short(before),
            hint="carry = start(params, state, x) for the blocks' batch and dtype",
        )
