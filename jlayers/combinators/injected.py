"""Values that go into the outputs of layers inside a model, in every transformation.

They are entries of the state at the place of the layer, under a name that no layer has, so that
``repeat`` and ``ensemble`` give each copy its own. They are there while the model runs, and never
in the state that users see.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..base.collecting import Captured, add_captured
from ..base.errors import LayerError, error_context
from ..base.layer import Layer
from ..base.paths import INSTRUMENT
from ..base.sequence import Sequence, is_sequence
from ..base.specs import format_spec, specs_of
from ..base.step_pair import Stepping, stream_of
from ..base.tracing import Trace
from ..base.types import Carry, Key, Params, PyTree, State
from .selected import Selected, unseen
from .transparent import traced, wrapper

# ``(leaf of the output, given arrays) -> leaf``
Inject = Callable[[jax.Array, dict[str, jax.Array]], jax.Array]

_numbers = itertools.count()


def injector(owner: object, entry: str, how: Inject, selected: Selected, layer: Layer) -> Layer:
    """The layer with ``how`` applied to its output, where the state has the entry.

    ``owner`` captures that a call took it, with an empty value.
    """

    def around(state: State, run: Callable[[State], Any]) -> Any:
        """What a run gives, the output first and the next state last."""
        with error_context(layer):
            if entry not in state:
                return run(state)
            y, *rest, new = run({name: value for name, value in state.items() if name != entry})
            add_captured((), owner, selected.path)
            # Kept, as a loop's carry may not lose an entry.
            return _changed(y, state[entry], how), *rest, new | {entry: state[entry]}

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        return around(state, lambda own: layer._apply(params, own, x, key=key, train=train))  # type: ignore[no-any-return]

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        own = {name: value for name, value in state.items() if name != entry}
        with error_context(layer):
            return stream_of(layer).start(params, own, x, capacity=capacity)

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        step = stream_of(layer).advance
        return around(state, lambda own: step(params, own, carry, x, key=key, train=train))  # type: ignore[no-any-return]

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        return traced(layer, key, x)

    again = functools.partial(injector, owner, entry, how, selected)
    return unseen(wrapper(layer, abstract, apply, again, Stepping(start, advance)), layer)


def entry_name() -> str:
    """A name for entries of the state, which no other has."""
    # In the order of creation as text too: JAX sorts the names.
    return f"{INSTRUMENT}given {next(_numbers):09d}>"


def with_entries(state: State, entry: str, values: Mapping[str, PyTree]) -> State:
    """The state with values by the path of their layer."""
    for path, value in values.items():
        state = _with_entry(state, [*filter(None, path.split("/")), entry], value)
    return state


def _with_entry(state: State, path: list[str], value: PyTree) -> State:
    name, *rest = path
    if not rest:
        return state | {name: value}
    return state | {name: _with_entry(state.get(name, {}), rest, value)}


def without_entries(new: State, state: State, entry: str) -> State:
    """``new`` with the entries of ``state``, which was there before values were added."""
    found = {}
    for name, value in new.items():
        if name == entry:
            continue
        if isinstance(value, dict):
            value = without_entries(value, state.get(name, {}), entry)
            # What was made for values alone.
            if not value and name not in state:
                continue
        found[name] = value
    return found


def check_taken(found: list[Captured], values: Mapping[str, Any]) -> None:
    """Raises for a value that was not taken by one call of its layer."""
    for path in values:
        calls = sum(one.name == path for one in found)
        if calls > 1:
            raise called_several_times(path, calls)
        if not calls:
            raise LayerError(
                f"the layer at {path!r} gets no value",
                expected="parents that call their children with their state",
                hint="a combinator instead of a Layer that calls its children by hand",
            )


def called_several_times(path: str, calls: int) -> LayerError:
    return LayerError(
        f"the layer at {path!r} is called {calls} times, and takes one value",
        hint="the layer around it, or children of their own for the calls",
    )


def array_leaves(tree: PyTree) -> list[Any]:
    """The arrays of a tree, of each Sequence its values."""
    leaves = jax.tree.leaves(tree, is_leaf=is_sequence)
    return [leaf.values if isinstance(leaf, Sequence) else leaf for leaf in leaves]


def with_arrays(tree: PyTree, arrays: Mapping[str, jax.Array]) -> PyTree:
    """The tree with other arrays, by the number of the leaf, also as values of a Sequence."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_sequence)
    changed = []
    for i, leaf in enumerate(leaves):
        array = arrays.get(str(i), leaf)
        changed.append(leaf._with(array) if is_sequence(leaf) and array is not leaf else array)
    return jax.tree.unflatten(structure, changed)


def _changed(y: PyTree, given: dict[str, dict[str, jax.Array]], how: Inject) -> PyTree:
    """``y`` with ``how`` applied to the leaves for which, by number, arrays are given."""
    leaves, new = array_leaves(y), {}
    for number, own in given.items():
        leaf = leaves[int(number)]
        for array in own.values():
            # Where shapes were checked before, only a state for all copies is left as a reason.
            if jnp.shape(array) != jnp.shape(leaf):
                raise LayerError(
                    "is called for several copies by one state, and takes one value",
                    expected=format_spec(specs_of(leaf)),
                    got=format_spec(specs_of(array)),
                    hint="repeat without shared=True",
                )
        new[number] = how(leaf, own)
    return with_arrays(y, new)
