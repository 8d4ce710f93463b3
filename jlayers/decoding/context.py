"""Context: what a model reads beside its ids, the same at every step.

How to read this file: ``as_context`` checks what a user gives; ``beside`` is the model's input.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..base.errors import LayerError
from ..base.specs import as_array, format_spec, input_specs, specs_of
from ..base.types import PyTree, Spec


def as_context(context: PyTree, rows: int) -> PyTree:
    """The context that a user gave, as JAX arrays; None where there is none.

    Raises:
      LayerError: for anything but arrays, and for another number of rows than the prompt has.
    """
    if context is None:
        return None
    input_specs(context)
    context = jax.tree.map(as_array, context)
    for leaf in jax.tree.leaves(context):
        if leaf.shape[:1] != (rows,):
            raise LayerError(
                "the context must have the rows of the prompt",
                expected=f"[{rows}, ...]",
                got=format_spec(context),
                hint="jnp.repeat(context, rows, 0) for one context of all rows",
            )
    return context


def beside(ids: PyTree, context: PyTree) -> PyTree:
    """The model's input: ``ids``, or ``(ids, context)``."""
    return ids if context is None else (ids, context)


def repeated(context: PyTree, copies: int) -> PyTree:
    """The context with each row several times, one after the other."""
    if copies == 1:
        return context
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, copies, axis=0), context)


def specs_for(context: PyTree, rows: int) -> PyTree:
    """The specs of a context with so many rows."""
    return jax.tree.map(
        lambda leaf: Spec((rows, *leaf.shape[1:]), leaf.dtype), specs_of(context, "the context")
    )
