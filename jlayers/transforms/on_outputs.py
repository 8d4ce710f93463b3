"""A layer with a function on the arrays of its output: a wrapper without parameters."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..base.errors import error_context
from ..base.layer import Layer
from ..base.step_pair import Stepping, stream_of
from ..base.tracing import Trace
from ..base.types import Carry, Key, Params, PyTree, State
from ..combinators.transparent import start_of, traced, wrapper


def with_outputs(
    layer: Layer, function: Callable[[jax.Array], jax.Array], again: Callable[[Layer], Layer]
) -> Layer:
    """The layer with ``function`` of each floating array of its output, and of each block.

    Args:
      function: keeps shapes and dtypes.
      again: the same around another layer.
    """

    def of(y: PyTree) -> PyTree:
        return jax.tree.map(
            lambda leaf: function(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, y
        )

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        with error_context(layer):
            y, new = layer._apply(params, state, x, key=key, train=train)
        return of(y), new

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        found, y = traced(layer, key, x)
        return found, of(y)

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        with error_context(layer):
            step = stream_of(layer).advance
            y, carry, new = step(params, state, carry, x, key=key, train=train)
        return of(y), carry, new

    return wrapper(layer, abstract, apply, again, Stepping(start_of(layer), advance))
