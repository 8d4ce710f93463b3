"""Gradients with respect to what layers give: ``capture(what="gradient")``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..base.added_losses import total
from ..base.collecting import Collected, Wanted, collected
from ..base.errors import LayerError, calling_user_code
from ..base.sequence import Sequence, is_sequence
from ..base.specs import format_short
from ..base.types import PyTree, State
from ..core.dtypes import at_least_float32
from .injected import (
    array_leaves,
    called_several_times,
    check_taken,
    with_arrays,
    with_entries,
    without_entries,
)

Of = Callable[[PyTree], jax.Array]
# By the path of a layer and the number of an array of its output.
Deltas = dict[str, dict[str, jax.Array]]


def with_gradients(
    run: Callable[[State], tuple[PyTree, State]],
    state: State,
    entry: str,
    owners: tuple[object, object],
    of: Of | None,
    reduce: Callable[[PyTree], PyTree],
    collects: Wanted,
) -> tuple[PyTree, State, dict[str, PyTree], Collected]:
    """Output and state of a run, the gradients of ``of(y)`` by path, and what else it gave.

    Args:
      run: the model with an injector and a recorder around each selected layer, given its state.
      entry: of the injectors.
      owners: of what recorders and what injectors give.
      collects: what else is collected.
    """
    recorders, injectors = owners
    inside = collects._replace(owners=collects.owners | set(owners))

    def outputs() -> Collected:
        return collected(lambda: run(state), inside)[1]

    specs = jax.eval_shape(outputs).of(recorders)
    zeros: Deltas = {}
    for one in specs:
        if one.name in zeros:
            raise called_several_times(one.name, sum(two.name == one.name for two in specs))
        zeros[one.name] = {
            str(i): jnp.zeros(leaf.shape, leaf.dtype)
            for i, leaf in enumerate(array_leaves(one.value))
            if jnp.issubdtype(leaf.dtype, jnp.floating)
        }

    def value(deltas: Deltas) -> tuple[jax.Array, Any]:
        given = {
            path: {number: {"delta": delta} for number, delta in own.items()}
            for path, own in deltas.items()
        }
        (y, new), found = collected(lambda: run(with_entries(state, entry, given)), inside)
        return _scalar(y, of), (y, new, found)

    gradients, (y, new, found) = jax.grad(value, has_aux=True)(zeros)
    check_taken(found.of(injectors), zeros)
    captured = {}
    for one in found.of(recorders):
        function = reduce
        for _ in range(one.copies):
            function = jax.vmap(function)
        captured[one.name] = function(with_arrays(one.value, gradients[one.name]))
    rest = found.without(recorders).without(injectors)
    return y, without_entries(new, state, entry), captured, rest


def _scalar(y: PyTree, of: Of | None) -> jax.Array:
    if of is None:
        leaves = [
            leaf.fill() if isinstance(leaf, Sequence) else leaf
            for leaf in jax.tree.leaves(y, is_leaf=is_sequence)
        ]
        return total(
            [
                jnp.sum(leaf.astype(at_least_float32(leaf.dtype)))
                for leaf in leaves
                if jnp.issubdtype(leaf.dtype, jnp.floating)
            ]
        )
    with calling_user_code("of"):
        value = of(y)
    fits = isinstance(value, jax.Array) and value.shape == ()
    if not fits or not jnp.issubdtype(value.dtype, jnp.floating):
        raise LayerError("of must return a floating scalar", got=format_short(value))
    return value
