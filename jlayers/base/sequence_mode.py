"""How a layer takes a Sequence: the one wrapper round every pair of functions.

A layer that acts on each step alone knows nothing of masks: it gets the values, with zeros in the
padding, and the mask is handed on. One that mixes steps gets the Sequence, its padding filled. One
that only calls other layers hands it to them. So what stands in the padding meets a select wherever
it comes to a layer, and so does the gradient that leaves one: neither gets through, NaN included.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from .receptive_field import EVERYWHERE, Reach
from .sequence import Sequence, is_sequence, mapped, sequences_in
from .specs import PyTree

# Acts on each step alone; mixes steps, and takes the Sequence itself; calls layers that do.
KINDS = ("steps", "own", "through")


class Takes(NamedTuple):
    """How a layer takes Sequences.

    Attributes:
      kind: one of ``KINDS``.
      reach: ``reach(x) -> Reach`` for the input, a Sequence or a tree of them; None for one that is
        not known.
      rows: whether, taking the Sequence itself, it wants it too where the mask is of rows alone,
        (batch,): one that takes statistics over the batch does, for others rows are independent.
    """

    kind: str = "steps"
    reach: Callable[[Any], Reach] | None = None
    rows: bool = False


STEPS = Takes()
THROUGH = Takes("through")


def taking_sequences(
    init: Callable[..., Any], apply: Callable[..., Any], takes: Takes
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A pair that takes Sequences, of one that is written as ``takes`` says."""
    if takes.kind == "through":
        return init, apply

    def init_of(key: Any, x: PyTree) -> Any:
        return init(key, without_masks(x))

    @functools.wraps(apply)
    def apply_to(params: Any, state: Any, x: PyTree, *, key: Any, train: bool) -> Any:
        found = sequences_in(x)
        if not found:
            return apply(params, state, x, key=key, train=train)
        if takes.kind == "own" and (takes.rows or found[0].mask.ndim > 1):
            y, state = apply(params, state, filled(x), key=key, train=train)
            return reaching(y, found, takes, x), state
        states = []

        def of_values(x: PyTree) -> PyTree:
            y, state_after = apply(params, state, x, key=key, train=train)
            states.append(state_after)
            return y

        return mapped(of_values, (x,)), states[0]

    return init_of, apply_to


def without_masks(x: PyTree) -> PyTree:
    """The tree with its values in the place of each Sequence."""
    return jax.tree.map(
        lambda node: node.values if isinstance(node, Sequence) else node, x, is_leaf=is_sequence
    )


def filled(x: PyTree) -> PyTree:
    """The tree with zeros in the padding of each Sequence."""
    return jax.tree.map(
        lambda node: node._with(node.fill()) if isinstance(node, Sequence) else node,
        x,
        is_leaf=is_sequence,
    )


def reaching(y: PyTree, found: list[Sequence], takes: Takes, x: PyTree) -> PyTree:
    """``y`` with what it sees, where that of the inputs is asked for."""
    reaches = [sequence._reach for sequence in found if sequence._reach is not None]
    if not reaches:
        return y
    own = EVERYWHERE if takes.reach is None else takes.reach(x)
    reach = functools.reduce(Reach.beside, reaches).then(own)
    return with_reach(y, reach)


def with_reach(y: PyTree, reach: Reach | None) -> PyTree:
    """The tree with ``reach`` noted on each Sequence, or nothing."""

    def note(node: Any) -> Any:
        return node._seeing(reach) if isinstance(node, Sequence) else node

    return jax.tree.map(note, y, is_leaf=is_sequence)
