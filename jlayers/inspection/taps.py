"""Taps: a function on what goes into and comes out of every layer of a model, whatever runs it.

How to read this file: ``tapped`` wraps each layer of a model with a tap, and ``recorded`` is the
first use of it: a run that returns what passed. A tap may as well change values.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers

from ..base.errors import error_context
from ..base.layer import Layer
from ..base.parameters import ParamSpec
from ..base.paths import INSTRUMENT, join
from ..base.sequence_mode import SequenceMode
from ..base.specs import specs_of
from ..base.step_pair import Stepping, stream_of
from ..base.tracing import Trace, run, trace
from ..base.types import Carry, Key, Params, PyTree, Spec, State
from ..base.wrong_input import checked_trees

Side = Literal["input", "output"]
_ENTRY = f"{INSTRUMENT}tap "


class Site(NamedTuple):
    """A call of a layer in the program that is traced.

    Attributes:
      path: of the layer, as in ``walk``.
      steps: its names, with the number of copies where a ``repeat`` or an ``ensemble`` is entered.
      layer: the layer itself, without taps.
      order: when it was traced: for each enclosing layer of copies, and for this call.
    """

    path: str
    steps: tuple[str | int, ...]
    layer: Layer
    order: tuple[int, ...]

    @property
    def copies(self) -> tuple[int, ...]:
        return tuple(step for step in self.steps if isinstance(step, int))

    def named(self, copy: tuple[int, ...]) -> str:
        """The path with the number of the copy: ``blocks/3/mlp``."""
        numbers = iter(copy)
        return "/".join(str(next(numbers)) if isinstance(s, int) else s for s in self.steps)


# ``tap(site, side, value, copy)`` returns the value, or another one of its shapes; ``copy`` is an
# int32 scalar of the program: the number of this copy among ``math.prod(site.copies)``.
Tap = Callable[[Site, Side, PyTree, jax.Array], PyTree]


class Activation(NamedTuple):
    """What a layer got or gave in one call, as NumPy arrays.

    Attributes:
      path: of the layer; inside ``repeat`` and ``ensemble`` with the number of the copy.
      call: 0 for the first call of this layer, 1 for the next, ...
      site: which call of the traced program it is.
      copy: the numbers of the copies.
      value: the tree that passed.
    """

    path: str
    call: int
    site: Site
    copy: tuple[int, ...]
    value: PyTree


def tapped(model: Layer, x: PyTree, tap: Tap) -> Layer:
    """The model with a tap on both sides of each layer inside it, and of itself.

    Parameters stay as they are. The state has a further entry for each layer, which tells copies
    apart: ``with_copies`` adds them.

    Args:
      model: a layer.
      x: its input, or the spec of it.
      tap: see ``Tap``; it is called when the model is traced.
    """
    return _tapped(model, [x], "", (), 0, _Clock(tap))


class _Clock:
    """The order of the calls, over all layers of a model."""

    def __init__(self, tap: Tap):
        self.tap = tap
        self.ticks = itertools.count()
        self.entered: list[int] = []


def _tapped(
    layer: Layer,
    inputs: list[PyTree],
    path: str,
    steps: tuple[str | int, ...],
    depth: int,
    clock: _Clock,
) -> Layer:
    found = [trace(layer, x) for x in inputs]
    inner = layer
    below = (*steps, found[0].copies) if found and found[0].copies is not None else steps
    if layer.children and found:
        calls = {n: [x for one in found for x in one.inputs[n]] for n in layer.children}
        children = {
            name: _tapped(
                child,
                calls[name],
                join(path, name),
                (*below, name) if name else below,
                depth + 1,
                clock,
            )
            for name, child in layer.children.items()
        }
        try:
            inner = layer.rebuild(children)
            for x in inputs:
                trace(inner, x)
        except Exception:
            # A pair written by hand that reads its children's trees: it is one layer to us.
            inner = layer
    # A transparent layer shares its parent's trees: only the depth tells their entries apart.
    entry = f"{_ENTRY}{depth}>"

    def around(call: Callable[[State, PyTree], Any], state: State, x: PyTree) -> Any:
        """What a run of the inner layer gives, its output first, with a tap on either side."""
        own, entered = {n: leaf for n, leaf in state.items() if n != entry}, next(clock.ticks)
        site = Site(path, steps, layer, (*clock.entered, entered))
        x = clock.tap(site, "input", x, state[entry])
        if below != steps:
            clock.entered.append(entered)
        try:
            with error_context(layer):
                y, *rest = call(own, x)
        finally:
            if below != steps:
                clock.entered.pop()
        site = site._replace(order=(*clock.entered, next(clock.ticks)))
        y = clock.tap(site, "output", y, state[entry])
        return y, *rest[:-1], rest[-1] | {entry: state[entry]}

    def again(inner: Layer) -> Layer:
        def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
            with error_context(layer):
                found, y = run(inner, key, x)
            number = ParamSpec(initializers.zeros, (), np.dtype("int32"))
            return Trace(
                found.params,
                found.state | {entry: Spec((), jnp.int32)},
                None,
                {"": (specs_of(x),)},
                own_variables={entry: number},
                inside={"": found},
            ), y

        def apply(
            params: Params, state: State, x: PyTree, *, key: Key, train: bool
        ) -> tuple[PyTree, State]:
            call = lambda own, x: inner._apply(params, own, x, key=key, train=train)  # noqa: E731
            return around(call, state, x)  # type: ignore[no-any-return]

        def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
            own = {n: leaf for n, leaf in state.items() if n != entry}
            return stream_of(inner).start(params, own, x, capacity=capacity)

        def advance(
            params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
        ) -> tuple[PyTree, Carry, State]:
            step = stream_of(inner).advance
            call = lambda own, x: step(params, own, carry, x, key=key, train=train)  # noqa: E731
            return around(call, state, x)  # type: ignore[no-any-return]

        return Layer(
            None,
            apply,
            name=layer.kind,
            children={"": inner},
            rebuild=lambda new: again(new[""]),
            abstract=abstract,
            sequence_mode=SequenceMode.DELEGATE,
            stream=Stepping(start, advance),
            # An error is about the layer, and not about its tap.
        )._replace(_text=layer._text, site=layer.site)

    return again(inner)


def with_copies(state: State, specs: PyTree) -> State:
    """The model's state with the entries of taps, as the trace of the tapped model has them."""
    # What is missing or too much is for ``apply`` to refuse.
    filled = dict(state)
    for name, spec in specs.items():
        if name.startswith(_ENTRY):
            filled[name] = jnp.arange(spec.size, dtype=spec.dtype).reshape(spec.shape)
        elif isinstance(spec, dict):
            filled[name] = with_copies(state.get(name, {}), spec)
    return filled


def recorded(
    model: Layer,
    params: Params,
    state: State,
    x: PyTree,
    *,
    key: jax.Array | None = None,
    side: Side = "output",
    path: str | None = None,
) -> tuple[PyTree, list[Activation]]:
    """The output of a model in evaluation, and what each layer gave on the way.

    The model runs once, compiled; XLA fuses less of it, which may round otherwise. Values leave by
    callbacks, so that layers are reached inside every transformation of JAX, those that users call
    in a body too.

    Args:
      model, params, state, x, key: as for ``apply``.
      side: what is recorded.
      path: of the only layer that is recorded; all of them by default.

    Returns:
      ``(y, activations)``, these in the order in which the layers ran, copies of ``repeat`` one
      after the other; a layer comes after the layers inside it (before them, by its input).
    """
    seen: list[tuple[Site, int, list[Any], Any]] = []

    def tap(site: Site, where: Side, value: PyTree, copy: jax.Array) -> PyTree:
        if where == side and path in (None, site.path):
            leaves, treedef = jax.tree.flatten(value)
            hand_out = functools.partial(_kept, seen, site, treedef)
            jax.debug.callback(hand_out, copy, *leaves)
        return value

    params, state = checked_trees(model, params, state, x)
    around = tapped(model, x, tap)
    given = with_copies(state, trace(around, x).state)
    compiled = jax.jit(lambda params, state, x, key: around.apply(params, state, x, key)[0])
    y = jax.block_until_ready(compiled(params, given, x, key))
    jax.effects_barrier()
    return y, list(_in_order(seen))


def _kept(seen: list[Any], site: Site, treedef: Any, copy: Any, *leaves: Any) -> None:
    seen.append((site, int(copy), [np.asarray(leaf) for leaf in leaves], treedef))


def _in_order(seen: list[tuple[Site, int, list[Any], Any]]) -> Iterator[Activation]:
    def when(site: Site, copy: tuple[int, ...]) -> tuple[int, ...]:
        *entered, own = site.order
        pairs = zip(entered, copy, strict=True)
        return (*(number for pair in pairs for number in pair), own)

    found = []
    for site, number, leaves, treedef in seen:
        # Row by row, as the entry of the state was filled.
        copy = tuple(map(int, np.unravel_index(number, site.copies))) if site.copies else ()
        found.append((when(site, copy), site, copy, jax.tree.unflatten(treedef, leaves)))
    calls: dict[str, dict[str, int]] = {}
    # By a stable sort, so that the steps of a loop in a user's body stay in order.
    for _, site, copy, value in sorted(found, key=lambda one: one[0]):
        name = site.named(copy)
        # A transparent wrapper and the layer inside it have one name, and count by themselves.
        counts = calls.setdefault(name, {})
        who = str(id(site.layer))
        counts[who] = counts.get(who, -1) + 1
        yield Activation(name, counts[who], site, copy, value)
