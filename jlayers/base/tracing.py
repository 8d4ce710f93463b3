"""The one abstract pass: shapes of outputs, and the table of parameters, of a whole model.

``trace(layer, x)`` runs ``init`` and ``apply`` once under ``jax.eval_shape`` and remembers, for the
layer and for every layer inside it, what it found. Each leaf is traced once for a given input
spec, however deep it is nested, and every mistake of shape shows before anything is computed.

How to read this file: a ``Trace`` is the result; ``trace`` is where a pass starts and ``run`` is
what it does at each layer. A layer made of others has a pass of its own (``scope``); a layer that
is a pair of functions is run by ``run_pair``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from .collecting import muted
from .errors import Described, LayerError, error_context
from .memo import remember
from .parameters import Made, OwnInit, PairInit, ParamSpec, is_name, recording
from .paths import join
from .specs import (
    format_short,
    format_spec,
    input_specs,
    placeholders,
    spec_key,
    specs_of,
    tree_matches,
)
from .types import ApplyFn, InitFn, Params, PyTree, Spec, State
from .weight_use import WeightUse

Table = Mapping[str, ParamSpec]


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """What an abstract pass found. Every leaf of every tree is a ``ShapeDtypeStruct``.

    Attributes:
      params, state: the trees that ``init`` returns.
      out: the output of ``apply``.
      inputs: for each child by name, the input of each of its calls, in order.
      own_parameters, own_variables: what the layer itself declares, by its path in the layer.
      inside: the pass of each child on its first call.
      copies: for ``repeat`` and ``ensemble``, how many copies of the child there are.
      without: paths of parameters of the child that are not in ``params``.
    """

    params: Params
    state: State
    out: PyTree
    inputs: Mapping[str, tuple[PyTree, ...]]
    own_parameters: Table = dataclasses.field(default_factory=dict)
    own_variables: Table = dataclasses.field(default_factory=dict)
    inside: Mapping[str, Trace] = dataclasses.field(default_factory=dict)
    copies: int | None = None
    without: frozenset[str] = frozenset()

    # Computed where a whole model is looked at, and not for each layer inside it: so the cost is
    # linear in the number of parameters, however deep the layers are nested.
    @functools.cached_property
    def parameters(self) -> dict[str, ParamSpec]:
        """The table of ``params``: how each array is made, by its path."""
        return dict(_entries(self, "own_parameters", "", ()))

    @functools.cached_property
    def variables(self) -> dict[str, ParamSpec]:
        """The table of ``state``."""
        return dict(_entries(self, "own_variables", "", ()))


def _entries(
    found: Trace, own: str, path: str, above: tuple[str | int, ...]
) -> Iterator[tuple[str, ParamSpec]]:
    if found.copies is not None:
        above = (*above, found.copies)
    for name, child in found.inside.items():
        entries = _entries(child, own, join(path, name), (*above, name) if name else above)
        if found.without:
            gone = {join(path, one) for one in found.without}
            entries = (entry for entry in entries if entry[0] not in gone)
        yield from entries
    table: Table = getattr(found, own)
    for name, spec in table.items():
        yield join(path, name), spec.inside(above) if above else spec


class Traceable(Described, Protocol):
    """What a pass needs of a layer."""

    @property
    def children(self) -> Mapping[str, Traceable]: ...

    @property
    def _init(self) -> InitFn | None: ...

    @property
    def _apply(self) -> ApplyFn: ...

    @property
    def _abstract(self) -> AbstractFn: ...

    @property
    def _weights(self) -> WeightUse: ...

    @property
    def _traces(self) -> dict[Hashable, Trace]: ...

    def rebuild(self, children: Mapping[str, Any], /) -> Traceable: ...

    def _stand_in(self, calls: list[PyTree]) -> Traceable: ...


class AbstractFn(Protocol):
    """``found, y = abstract(layer, key, x)``: a layer's own pass, inside ``jax.eval_shape``."""

    def __call__(self, layer: Any, key: jax.Array, x: PyTree, /) -> tuple[Trace, PyTree]: ...


def trace(layer: Traceable, x: PyTree) -> Trace:
    """The remembered abstract pass of ``layer`` on ``x`` (arrays or specs)."""
    with error_context(layer):
        x = input_specs(x)
        found = layer._traces.get(spec_key(x))
        if found is None:
            # A side effect, as eval_shape returns specs of arrays alone. And not from what is
            # remembered: other threads may have replaced it since.
            passes: list[Trace] = []

            def once(key: jax.Array, x: PyTree) -> PyTree:
                found, y = run(layer, key, x)
                passes.append(found)
                return y

            # What layers add to a loss meanwhile are abstract values of this pass.
            muted(lambda: jax.eval_shape(once, _key_spec(), x))
            found = passes[0]
    return found


def _key_spec() -> Spec:
    # Traced, not made: inside a program that is being written a key would become a part of it.
    key: Spec = jax.eval_shape(lambda: jax.random.key(0))
    return key


def run(layer: Traceable, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
    """One layer's part of a pass, inside ``jax.eval_shape``: the result, and the traced output."""
    specs = specs_of(x)
    known = spec_key(specs)
    # A shared layer, or one that was traced before: the output is made up from its specs.
    found = layer._traces.get(known)
    if found is not None:
        return found, placeholders(found.out)
    found, y = layer._abstract(layer, key, x)
    # A function without return gives None, which JAX takes for an empty tree.
    if y is None and x is not None:
        raise LayerError("its output is None", hint="its function has no return statement")
    found = dataclasses.replace(found, out=specs_of(y, "the output"))
    return remember(layer._traces, known, found), y


def trace_given(layer: Traceable, params: Params, state: State, x: PyTree) -> Trace:
    """``trace`` for parameters in the dtypes that they have, such as those cast to bfloat16.

    The output of an ``Embedding`` has the dtype of its table, and so the inputs of the layers after
    it follow from what was given. Of the result only ``inputs`` and ``out`` are other.
    """
    found = trace(layer, x)
    # Of another model: what reads them says so.
    if not (tree_matches(params, found.params) and tree_matches(state, found.state)):
        return found
    given = specs_of(params, "params"), specs_of(state, "state")
    if spec_key(given) == spec_key((found.params, found.state)):
        return found
    key = spec_key((given, specs_of(x)))
    known = layer._traces.get(key)
    if known is not None:
        return known
    inputs: dict[str, list[PyTree]] = {name: [] for name in layer.children}
    pair = layer
    if layer.children:
        pair = layer.rebuild(
            {name: child._stand_in(inputs[name]) for name, child in layer.children.items()}
        )

    def once(params: Params, state: State, key: jax.Array, x: PyTree) -> PyTree:
        return checked_result(pair._apply(params, state, x, key=key, train=False))[0]

    out = jax.eval_shape(once, *given, _key_spec(), specs_of(x))
    calls = {name: tuple(xs) for name, xs in inputs.items()}
    return remember(layer._traces, key, dataclasses.replace(found, out=out, inputs=calls))


def run_pair(layer: Traceable, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
    """Abstract pass of a layer that was given as a pair of functions.

    A layer with children runs around stand-ins that remember, so that no child is traced again.
    """
    inputs: dict[str, list[PyTree]] = {name: [] for name in layer.children}
    pair = layer
    if layer.children:
        pair = layer.rebuild(
            {name: child._stand_in(inputs[name]) for name, child in layer.children.items()}
        )
    assert pair._init is not None
    assert layer._init is not None
    specs = specs_of(x)
    # With a child's key, ``make`` was called for another layer: such records are left out below.
    with recording() as made:
        trees = pair._init(key, specs)
    if not (isinstance(trees, tuple) and len(trees) == 2):
        raise LayerError(
            "init must return a pair of trees",
            expected="(params, state)",
            got=format_short(trees),
            hint="jl.stateless(init, apply) for an init that returns params alone",
        )
    params, state = trees
    _check_tree(params, "params")
    _check_tree(state, "state")
    # init may have called children too; what counts is what apply gives them.
    for calls in inputs.values():
        calls.clear()
    y, new_state = checked_result(pair._apply(params, state, x, key=key, train=False))
    if specs_of(new_state) != specs_of(state):
        raise LayerError(
            "apply changed the state's entries, shapes or dtypes",
            expected=format_spec(state),
            got=format_spec(new_state),
        )
    # The layer itself, not the one around stand-ins, whose arrays are zeros.
    source = PairInit(layer, layer._init, specs)
    parameters, variables = _tables(trees, [one for one in made if one.key is key], source)
    return Trace(
        _specs_in_order(params),
        _specs_in_order(state),
        None,
        {name: tuple(calls) for name, calls in inputs.items()},
        parameters,
        variables,
    ), y


def _tables(trees: tuple[Params, State], made: list[Made], source: PairInit) -> tuple[Table, Table]:
    """How each array of what ``init`` returned was made.

    By its initialiser, where all of them were made by ``make`` under their own names; otherwise
    it is marked as made by the layer's own ``init``.
    """
    # By identity: each array is a tracer of its own, and two parameters may be equal.
    by_initializer = {(one.name, id(one.value)): one.spec for one in made}
    leaves = [list(_leaves(tree)) for tree in trees]
    # All or none: an init that draws by itself uses its key as it likes.
    if all(("/".join(path), id(leaf)) in by_initializer for tree in leaves for path, leaf in tree):
        tables = [
            {path[-1]: by_initializer[path[-1], id(leaf)] for path, leaf in tree} for tree in leaves
        ]
    else:
        tables = [
            {
                "/".join(path): ParamSpec(OwnInit(source, i, path), spec.shape, spec.dtype)
                for path, leaf in tree
                for spec in (specs_of(leaf),)
            }
            for i, tree in enumerate(leaves)
        ]
    return tables[0], tables[1]


def _leaves(
    tree: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _specs_in_order(tree: PyTree) -> PyTree:
    """``specs_of`` without the sorting of ``jax.tree``: ``init`` keeps the order of entries."""
    if isinstance(tree, dict):
        return {name: _specs_in_order(value) for name, value in tree.items()}
    return specs_of(tree)


def checked_result(result: Any) -> tuple[PyTree, State]:
    """What ``apply`` returned. Raises unless it is a pair of an output and a state."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise LayerError(
            "apply must return a pair of output and state",
            expected="(y, state) with a dict for state",
            got=format_short(result),
            hint="jl.stateless(init, apply) for an apply that returns y alone",
        )
    return result


def _check_tree(tree: PyTree, what: str) -> None:
    """Parameters and state are nested dicts of arrays with names for keys."""
    if not isinstance(tree, dict):
        raise LayerError(
            f"init must return a dict for {what}",
            expected="nested dicts of arrays with string keys",
            got=format_short(tree),
        )
    for name, value in tree.items():
        if not is_name(name):
            raise LayerError(
                f"init returned {what} with the key {name!r}",
                expected="a non-empty string without / * ? [ ]",
            )
        if isinstance(value, dict):
            _check_tree(value, what)
        elif not isinstance(value, jax.Array | np.ndarray | np.generic):
            raise LayerError(
                f"init must return an array for {name!r} in {what}", got=format_short(value)
            )
