"""Layers whose outputs are placed: on a mesh, what flows through a model stays split by rows.

XLA propagates how arrays are split from the parameters and the batch inwards. Where both are split
over one axis of the mesh a product can be computed in two ways, and it may gather the batch on each
device instead of the parameters. Said of the outputs of all layers, the rows stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from ..base.layer import Layer
from ..base.step_pair import Stepping, stream_of
from ..base.tracing import Trace
from ..base.types import Carry, Key, Params, PyTree, State
from .transparent import traced, wrapper

# Their children see rows of several copies, or of some experts.
_OTHER_ROWS = ("ensemble", "MixtureOfExperts", "map")


def with_placed_outputs(layer: Layer, place: Callable[[PyTree], PyTree]) -> Layer:
    """The model with ``place`` on the output of every layer that has parameters of its own."""
    if layer.maker in _OTHER_ROWS:
        return layer
    if not layer.children:
        return _placed(layer, place)
    new = {name: with_placed_outputs(child, place) for name, child in layer.children.items()}
    changed = any(new[name] is not child for name, child in layer.children.items())
    # A pair written by hand around others runs them itself.
    return layer.rebuild(new) if changed and layer._rebuild is not None else layer


def _placed(inner: Layer, place: Callable[[PyTree], PyTree]) -> Layer:
    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        y, new = inner._apply(params, state, x, key=key, train=train)
        return (place(y) if params else y), new

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        return traced(inner, key, x)

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        return stream_of(inner).start(params, state, x, capacity=capacity)

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        y, carry, new = stream_of(inner).advance(params, state, carry, x, key=key, train=train)
        return (place(y) if params else y), carry, new

    def again(layer: Layer) -> Layer:
        return _placed(layer, place)

    return wrapper(inner, abstract, apply, again, Stepping(start, advance))
