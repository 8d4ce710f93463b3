"""Layers that are given lazy weights: where those become arrays.

How to read this file: ``guarded`` is the model that a transform of weights runs. Each layer in it
that is a pair of functions gets arrays, but for the parameters that it says it takes as they are;
bodies of ``compose`` get them from the scope.
"""

from __future__ import annotations

from collections.abc import Callable

from ..core.weights import arrays_in
from .layer import Layer
from .step_pair import Stepping
from .types import ApplyFn, Carry, Key, Params, PyTree, State


def guarded(layer: Layer) -> Layer:
    """The same layer, whose parameters may be lazy weights."""
    if layer._weights.guarded:
        return layer
    children = {name: guarded(child) for name, child in layer.children.items()}
    changed = any(children[name] is not child for name, child in layer.children.items())
    around = layer.rebuild(children) if changed else layer
    # Without ``init`` it is a body, or a wrapper without parameters that it computes with.
    return around if layer._init is None else _with_arrays(around)


def _with_arrays(layer: Layer) -> Layer:
    # Those of children are for them to take.
    kept = {*layer._weights.takes, *layer.children}

    def own(params: Params) -> Params:
        if "" in layer.children:
            return params
        return {name: entry if name in kept else arrays_in(entry) for name, entry in params.items()}

    def of(apply: ApplyFn) -> ApplyFn:
        def apply_to(
            params: Params, state: State, x: PyTree, *, key: Key, train: bool
        ) -> tuple[PyTree, State]:
            return apply(own(params), state, x, key=key, train=train)

        return apply_to

    stream = layer._stream
    if isinstance(stream, Stepping):
        stream = _stepping(stream, own)
    return layer._replace(
        _apply=of(layer._apply),
        _apply_to_array=of(layer._apply_to_array),
        _stream=stream,
        _weights=layer._weights._replace(guarded=True),
    )


def _stepping(stream: Stepping, own: Callable[[Params], Params]) -> Stepping:
    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        return stream.start(own(params), state, x, capacity=capacity)

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        return stream.advance(own(params), state, carry, x, key=key, train=train)

    return Stepping(start, advance, stream.whole)
