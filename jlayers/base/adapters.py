"""Simpler functions from layers: ``without_state`` and ``out_spec``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from . import arguments
from .constructors import lift
from .errors import LayerError, error_context, public_api
from .layer import Layer
from .specs import format_short, path_text
from .tracing import trace
from .types import Key, Params, PyTree


# No Layer: it would not have the contract that every combinator relies on.
class Pair(NamedTuple):
    """``params = init(key, x)`` and ``y = apply(params, x, key=None, train=False)``."""

    init: Callable[[jax.Array, PyTree], Params]
    apply: Callable[..., PyTree]


@public_api
def without_state(layer: Layer) -> Pair:
    """The pair of a layer that has no state, without the empty dicts.

    Raises:
      LayerError: when init or apply finds that a layer inside has state, naming it.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> init, apply = jl.without_state(jl.Dense(2, kernel_init=jax.nn.initializers.ones))
    >>> params = init(jax.random.key(0), jl.spec((1, 3)))
    >>> apply(params, jnp.ones((1, 3)))
    Array([[3., 3.]], dtype=float32)
    """
    layer = lift(layer)

    def check(x: PyTree) -> None:
        with error_context(layer):
            state = trace(layer, x).state
            if state:
                paths = ", ".join(path_text(path) for path, _ in jax.tree.leaves_with_path(state))
                raise LayerError(
                    "without_state needs a layer without state",
                    got=paths,
                    hint="params, state = layer.init(key, x)",
                )

    @public_api
    def init(key: jax.Array, x: PyTree) -> Params:
        # At every call: whether there is state may depend on the structure of the input.
        check(x)
        return layer.init(key, x)[0]

    @public_api
    def apply(params: Params, x: PyTree, key: Key = None, train: bool = False) -> PyTree:
        # Out of habit a state is passed between params and x, and then x is taken for the key.
        if key is not None and not arguments.is_key(key):
            with error_context(layer):
                raise LayerError(
                    "the key must be a single typed key",
                    got=format_short(key),
                    hint="apply(params, x, key): without_state takes no state",
                )
        check(x)
        return layer.apply(params, {}, x, key=key, train=train)[0]

    return Pair(init, apply)


@public_api
def out_spec(layer: Layer, x: PyTree) -> PyTree:
    """Shapes and dtypes of ``layer``'s output for the input ``x``, without computing anything.

    Args:
      layer: a ``Layer``, or a function of one argument.
      x: arrays or ``jax.ShapeDtypeStruct``s.

    Returns:
      The output tree with a ``jax.ShapeDtypeStruct`` for every leaf.

    Raises:
      LayerError: where ``x`` does not fit the layer or a layer inside it.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.Dense(10), jl.spec((32, 784)))
    ShapeDtypeStruct(shape=(32, 10), dtype=float32)
    """
    return trace(lift(layer), x).out
