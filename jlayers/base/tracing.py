"""The one abstract pass: shapes of parameters, state and outputs of a whole model.

``trace(layer, x)`` runs ``init`` and ``apply`` once under ``jax.eval_shape`` and remembers, for the
layer and for every layer inside it, what was found. Each leaf is traced once for a given input
spec, however deep it is nested, and every mistake of shape shows before anything is computed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from .errors import LayerError, error_context
from .initialization import Path
from .naming import is_name
from .parameters import watched
from .specs import (
    Params,
    PyTree,
    State,
    format_short,
    format_spec,
    placeholders,
    refuse_numbers,
    spec_key,
    specs_of,
)

if TYPE_CHECKING:
    from .layer import Layer

# A model served with ever new lengths must not grow without bound.
REMEMBERED = 128


class Declaration(NamedTuple):
    """A parameter or variable that a ``compose`` body asked for."""

    init: Any
    shape: tuple[int, ...]
    dtype: Any


class Trace(NamedTuple):
    """What an abstract run found. Every leaf of every tree is a ``ShapeDtypeStruct``.

    Attributes:
      params, state: the trees that ``init`` returns.
      out: the output of ``apply``.
      inputs: for each child by name, the input of each of its calls, in order.
      params_declared, state_declared: own parameters and variables of a ``compose`` body.
      by_path: whether ``init`` does no more with its key than hand it to ``parameters.make``, so
        that a ``Path`` may stand in its place.
    """

    params: Params
    state: State
    out: PyTree
    inputs: Mapping[str, tuple[PyTree, ...]]
    params_declared: Mapping[str, Declaration] = {}
    state_declared: Mapping[str, Declaration] = {}
    by_path: bool = False


def trace(layer: Layer, x: PyTree) -> Trace:
    """The remembered abstract run of ``layer`` on ``x`` (arrays or specs)."""
    with error_context(layer):
        refuse_numbers(x)
        x = specs_of(x)
        found = layer._traces.get(spec_key(x))
        if found is None:
            jax.eval_shape(lambda key, x: run(layer, key, x)[1], _key_spec(), x)
            found = layer._traces[spec_key(x)]
    return found


def run(layer: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
    """One abstract run, inside ``jax.eval_shape``: what was found, and the (traced) output."""
    specs = specs_of(x)
    known = spec_key(specs)
    found = layer._traces.get(known)
    if found is not None:
        return found, placeholders(found.out)
    found, y = layer._abstract(layer, key, x)
    if y is None and x is not None:
        raise LayerError("its output is None", hint="return at the end of its function")
    found = found._replace(out=specs_of(y, "the output"))
    if len(layer._traces) >= REMEMBERED:
        layer._traces.pop(next(iter(layer._traces)))
    layer._traces[known] = found
    return found, y


def init_child(layer: Layer, key: Any, x: PyTree) -> tuple[Params, State]:
    """``layer``'s own ``init``, for a key or for a ``Path`` that stands for one."""
    if not isinstance(key, Path):
        return layer._init(key, x)
    found = trace(layer, x)
    if not found.params and not found.state:
        return {}, {}
    if layer._by_path or found.by_path:
        return layer._init(key, x)
    init: Callable[..., Any] = functools.partial(_init_of, layer, x)
    for _ in key.copies:
        init = jax.vmap(init)
    return init(key.keys)  # type: ignore[no-any-return]


def _init_of(layer: Layer, x: PyTree, key: jax.Array) -> tuple[Params, State]:
    return layer._init(key, x)


def run_pair(layer: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
    """Abstract run of a layer that was given as a pair of functions.

    A layer with children runs around stand-ins that remember, so that no child is traced again.
    """
    inputs: dict[str, list[PyTree]] = {name: [] for name in layer.children}
    pair = layer
    if layer.children:
        pair = layer.rebuild(
            {name: child._stand_in(inputs[name]) for name, child in layer.children.items()}
        )
    with watched() as made_of_key:
        made = pair._init(key, specs_of(x))
    if not (isinstance(made, tuple) and len(made) == 2):
        raise LayerError(
            "init returned no pair of trees",
            expected="(params, state)",
            got=format_short(made),
            hint="jl.stateless(init, apply) where init gives params alone",
        )
    params, state = made
    _check_made(params, "params")
    _check_made(state, "state")
    for calls in inputs.values():
        calls.clear()
    y, new_state = checked_result(pair._apply(params, state, x, key=key, train=False))
    if specs_of(new_state) != specs_of(state):
        raise LayerError(
            "apply changed the state's entries, shapes or dtypes",
            expected=format_spec(state),
            got=format_spec(new_state),
        )
    calls_seen = {name: tuple(calls) for name, calls in inputs.items()}
    return Trace(
        specs_of(params),
        specs_of(state),
        None,
        calls_seen,
        by_path=_all_made(made, key, made_of_key),
    ), y


def checked_result(result: Any) -> tuple[PyTree, State]:
    """What a user's ``apply`` returned, if it is a pair of output and state."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise LayerError(
            "apply returned no pair of output and state",
            expected="(y, state) with a dict for state",
            got=format_short(result),
            hint="jl.stateless(init, apply) where apply gives y alone",
        )
    return result


def _all_made(trees: PyTree, key: Any, made: list[tuple[Any, Any]]) -> bool:
    ours = {id(value) for with_key, value in made if with_key is key}
    return all(id(leaf) in ours for leaf in jax.tree.leaves(trees))


def _check_made(tree: PyTree, what: str) -> None:
    """Parameters and state are nested dicts of arrays with names for keys."""
    if not isinstance(tree, dict):
        raise LayerError(
            f"init gave no dict for {what}",
            expected="nested dicts of arrays with string keys",
            got=format_short(tree),
        )
    for name, value in tree.items():
        if not is_name(name):
            raise LayerError(
                f"init gave {what} with the key {name!r}",
                expected="a string that is not empty, without / * ? [ ]",
            )
        if isinstance(value, dict):
            _check_made(value, what)
        elif not isinstance(value, jax.Array | np.ndarray | np.generic):
            raise LayerError(f"init gave no array for {name!r} in {what}", got=format_short(value))


def _key_spec() -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
