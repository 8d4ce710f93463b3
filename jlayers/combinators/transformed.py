"""A layer under a transformation of its program: what it does outside comes out as values.

What is collected inside belongs to the transformation, which has to return it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ..base.collecting import Collected, Wanted, add_collected, collected, wanted
from ..base.errors import error_context
from ..base.layer import Layer
from ..base.step_pair import Stepping, are_streamed, are_whole, stream_of
from ..base.tracing import Trace
from ..base.types import Carry, Key, Params, PyTree, State
from ..core.dispatch import compiled_when_eager
from .transparent import start_of, traced, wrapper

Advanced = tuple[tuple[PyTree, Carry, State], Collected]


def transformed(inner: Layer, call: Callable[..., Any], rebuild: Callable[[Layer], Layer]) -> Layer:
    """A layer with its programs run by ``call(function, *arrays)``, and streamed so."""

    @compiled_when_eager("train", "collects")
    def program(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool, collects: Wanted
    ) -> tuple[tuple[PyTree, State], Collected]:
        # train is closed over: as an argument it would be traced.
        def run(
            params: Params, state: State, x: PyTree, key: Key
        ) -> tuple[tuple[PyTree, State], Collected]:
            with error_context(inner):
                return run_collecting(inner, params, state, x, key, train, collects)

        return call(run, params, state, x, key)  # type: ignore[no-any-return]

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        (y, new), found = program(params, state, x, key=key, train=train, collects=wanted())
        add_collected(found)
        return y, new if train else state

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        return traced(inner, key, x)

    # A derivative of these is for truncated backpropagation, which differentiates through steps.
    @compiled_when_eager("mode")
    def block(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, mode: Mode
    ) -> Advanced:
        one = functools.partial(advanced, inner, mode)
        return call(one, params, state, carry, x, key)  # type: ignore[no-any-return]

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        result, found = block(params, state, carry, x, key=key, mode=Mode.here(train))
        add_collected(found)
        return result

    return wrapper(inner, abstract, apply, rebuild, Stepping(start_of(inner), advance))


def run_collecting(
    layer: Layer, params: Params, state: State, x: PyTree, key: Key, train: bool, collects: Wanted
) -> tuple[tuple[PyTree, State], Collected]:
    """The layer's output and state, and what is collected in it, which must not leave as it is.

    They are values of the transformation that runs the layer: it has to return them.
    """

    def run() -> tuple[PyTree, State]:
        return layer._apply(params, state, x, key=key, train=train)

    return collected(run, collects)


class Mode(NamedTuple):
    """What a program for blocks depends on beside its arguments."""

    train: bool
    collects: Wanted
    whole: bool
    streamed: bool

    @classmethod
    def here(cls, train: bool) -> Mode:
        return cls(train, wanted(), are_whole(), are_streamed())


def advanced(
    layer: Layer, mode: Mode, params: Params, state: State, carry: Carry, x: PyTree, key: Key
) -> Advanced:
    """A block of the layer, likewise."""

    def run() -> tuple[PyTree, Carry, State]:
        with error_context(layer):
            return stream_of(layer).advance(params, state, carry, x, key=key, train=mode.train)

    return collected(run, mode.collects)
