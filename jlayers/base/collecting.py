"""What layers give beside their output: losses that they add, and values that are captured.

Only while ``collected`` runs a function is there anything that takes them; elsewhere they are
dropped. Whatever runs a layer inside a JAX transformation (``repeat``, ``ensemble``, ``remat``)
collects inside it, returns what it found as outputs, and adds it again outside, so that no value
leaves a transformation other than as its output. docs/notes/0013-training-says.md says why losses
are not part of the state, docs/notes/0025-capture.md why captured values go the same way.

How to read this file: ``Wanted`` says what is collected, and is a part of what compiled programs
depend on; ``Collected`` is what was found, a pytree. At the end are the values by name that a layer
computes only where they are asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from .errors import LayerError
from .types import PyTree

Result = TypeVar("Result")


class Wanted(NamedTuple):
    """What is collected.

    Attributes:
      losses: whether the losses that layers add.
      owners: those whose captured values.
    """

    losses: bool = False
    owners: frozenset[object] = frozenset()


def trace_level() -> object:
    """The transformation of JAX that runs; equal for two calls in one."""
    # Only where it is needed: it takes longer to import than all of jlayers.
    from jax.extend.core import get_opaque_trace_state

    return get_opaque_trace_state()


NOTHING = Wanted()
LOSSES = Wanted(losses=True)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value"],
    meta_fields=["owner", "name", "copies"],
)
@dataclasses.dataclass(frozen=True)
class Captured:
    """A value that one call of a layer gave.

    Attributes:
      value: a tree of arrays, with an axis in front for each ``repeat`` and ``ensemble``.
      owner: who captures it.
      name: what the owner calls it.
      copies: how many axes of copies there are.
    """

    value: PyTree
    owner: object
    name: str
    copies: int = 0


class Collected(NamedTuple):
    """What layers gave while a function ran, in the order of their calls."""

    losses: list[jax.Array]
    captured: list[Captured]

    def of(self, owner: object) -> list[Captured]:
        """What is captured for one owner."""
        return [one for one in self.captured if one.owner is owner]

    def without(self, owner: object) -> Collected:
        """The rest."""
        return Collected(self.losses, [one for one in self.captured if one.owner is not owner])


class _Collector(NamedTuple):
    """Attributes:
    level: the transformation that ``collected`` was called in; None if nothing is captured.
    """

    wanted: Wanted
    found: Collected
    level: object

    def capture(self, captured: list[Captured]) -> None:
        """Takes the values whose owner captures.

        Raises:
          LayerError: inside a transformation that a user called, from which they cannot leave.
        """
        own = [one for one in captured if one.owner in self.wanted.owners]
        if own and trace_level() != self.level:
            raise LayerError(
                "is captured or changed inside a transformation of JAX that a body calls",
                expected="a call of the layer in the body itself",
                hint="jl.repeat, jl.ensemble and jl.remat return what is captured inside them",
            )
        self.found.captured.extend(own)


_collector: ContextVar[_Collector | None] = ContextVar("what is collected", default=None)


def wanted() -> Wanted:
    """What is collected here."""
    collector = _collector.get()
    return NOTHING if collector is None else collector.wanted


def add_loss(value: jax.Array) -> None:
    """Hands a loss to what collects, if anything does."""
    collector = _collector.get()
    if collector is not None and collector.wanted.losses:
        collector.found.losses.append(value)


def add_captured(value: PyTree, owner: object, name: str) -> None:
    """The same for a captured value."""
    collector = _collector.get()
    if collector is not None:
        collector.capture([Captured(value, owner, name)])


def add_collected(found: Collected) -> None:
    """The same for all that was found inside a transformation, which has returned it."""
    for loss in found.losses:
        add_loss(loss)
    collector = _collector.get()
    if collector is not None and found.captured:
        collector.capture(found.captured)


def add_of_copies(found: Collected) -> None:
    """The same for what has a first axis of copies: losses are summed."""
    losses = [jnp.sum(loss) for loss in found.losses]
    captured = [dataclasses.replace(one, copies=one.copies + 1) for one in found.captured]
    add_collected(Collected(losses, captured))


@contextlib.contextmanager
def _into(collector: _Collector | None) -> Iterator[None]:
    token = _collector.set(collector)
    try:
        yield
    finally:
        _collector.reset(token)


def collected(function: Callable[[], Result], wanted: Wanted = LOSSES) -> tuple[Result, Collected]:
    """What a function returns, and what layers gave while it ran."""
    found = Collected([], [])
    level = trace_level() if wanted.owners else None
    with _into(_Collector(wanted, found, level) if wanted != NOTHING else None):
        return function(), found


def captured_for(owner: object, function: Callable[[], Result]) -> tuple[Result, list[Captured]]:
    """What a function returns, and what it gave for one owner; all else goes where it went."""
    outside = wanted()
    inside = outside._replace(owners=outside.owners | {owner})
    result, found = collected(function, inside)
    add_collected(found.without(owner))
    return result, found.of(owner)


def muted(function: Callable[[], Result]) -> Result:
    """What a function returns; what layers give while it runs goes nowhere."""
    token = _asked.set(None)
    try:
        with _into(None):
            return function()
    finally:
        _asked.reset(token)


class Asked:
    """The values by name that are asked of one layer, and those that it has given."""

    def __init__(self, names: frozenset[str]):
        self.names = names
        self.given: dict[str, PyTree] = {}
        self._level = trace_level()

    def give(self, name: str, value: PyTree) -> None:
        """Gives a value, whether it is asked for or not.

        Raises:
          LayerError: inside a transformation that runs the layer, as an export to ONNX does.
        """
        if trace_level() != self._level:
            raise LayerError(
                f"its {name!r} is captured, and the layer runs inside a transformation of JAX",
                hint="capture its output",
            )
        self.given[name] = value


_asked: ContextVar[Asked | None] = ContextVar("values that are asked for", default=None)


def asked_of_layer() -> Asked | None:
    """What is asked of the layer that runs; a layer inside it is asked nothing."""
    asked = _asked.get()
    if asked is not None:
        # Until the call ends: ``asking`` then puts back what was there before.
        _asked.set(None)
    return asked


def asking(
    names: frozenset[str], function: Callable[[], Result]
) -> tuple[Result, dict[str, PyTree]]:
    """What a layer's function returns, and the values of these names that it gave."""
    outer = _asked.get()
    asked = Asked(names if outer is None else names | outer.names)
    token = _asked.set(asked)
    try:
        result = function()
    finally:
        _asked.reset(token)
    if outer is not None:
        outer.given |= asked.given
    return result, asked.given
