"""The one abstract pass: shapes of parameters, state and outputs of a whole model.

``trace(layer, x)`` runs ``init`` and ``apply`` once under ``jax.eval_shape`` and remembers, for the
layer and for every layer inside it, what was found. Each leaf is traced once for a given input
spec, however deep it is nested, and every mistake of shape shows before anything is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from .errors import LayerError, boundary, located
from .specs import Params, PyTree, State, placeholders, spec_key, specs_of

if TYPE_CHECKING:
    from .layer import Layer

# A model served with ever new lengths must not grow without bound.
_REMEMBERED = 128


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
    """

    params: Params
    state: State
    out: PyTree
    inputs: Mapping[str, tuple[PyTree, ...]]
    params_declared: Mapping[str, Declaration] = {}
    state_declared: Mapping[str, Declaration] = {}


@boundary
def out_spec(layer: Layer, x: PyTree) -> PyTree:
    """Shapes and dtypes of ``layer``'s output for the input ``x``, without computing anything.

    Args:
      layer: a ``Layer``.
      x: arrays or ``jax.ShapeDtypeStruct``s.

    Returns:
      The output tree with a ``jax.ShapeDtypeStruct`` for every leaf.

    Raises:
      LayerError: where ``x`` does not fit the layer or a layer inside it.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.Dense(10), jl.spec((32, 784)))
    ShapeDtypeStruct(shape=(32, 10), dtype=float32)
    """
    return trace(layer, x).out


def trace(layer: Layer, x: PyTree) -> Trace:
    """The remembered abstract run of ``layer`` on ``x`` (arrays or specs)."""
    with located(layer):
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
    found = found._replace(out=specs_of(y, "the output"))
    if len(layer._traces) >= _REMEMBERED:
        layer._traces.pop(next(iter(layer._traces)))
    layer._traces[known] = found
    return found, y


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
    made = pair._init(key, specs_of(x))
    if not (isinstance(made, tuple) and len(made) == 2):
        raise LayerError(
            "init returned no pair of trees",
            expected="(params, state)",
            got=type(made).__name__,
            mend="jl.stateless(init, apply) where init gives params alone",
        )
    params, state = made
    check_tree(params, "params")
    check_tree(state, "state")
    for calls in inputs.values():
        calls.clear()
    result = pair._apply(params, state, x, key=key, train=False)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise LayerError(
            "apply returned no pair of output and state",
            expected="(y, state) with a dict for state",
            got=type(result).__name__,
            mend="jl.stateless(init, apply) where apply gives y alone",
        )
    calls_seen = {name: tuple(calls) for name, calls in inputs.items()}
    return Trace(specs_of(params), specs_of(state), None, calls_seen), result[0]


def check_tree(tree: PyTree, what: str) -> None:
    """Parameters and state are nested dicts of arrays with string keys."""
    if not isinstance(tree, dict):
        raise LayerError(
            f"init gave {what} that are no dict",
            expected="nested dicts of arrays with string keys",
            got=type(tree).__name__,
        )
    for name, value in tree.items():
        if not isinstance(name, str):
            raise LayerError(f"init gave {what} with the key {name!r}", expected="string keys")
        if isinstance(value, dict):
            check_tree(value, what)
        elif not hasattr(value, "shape") or not hasattr(value, "dtype"):
            raise LayerError(f"init gave no array for {name!r} in {what}", got=type(value).__name__)


def _key_spec() -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
