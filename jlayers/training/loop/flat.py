"""A run as a list of plain arrays: what each call of the compiled step takes and gives.

Of one of tuples, dicts and typed keys the host spends a fifth of a call on taking it apart and
putting it together again. A loop needs it whole only where something is due.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...base.specs import PyTree


class Form(NamedTuple):
    """What makes a tree of a list of plain arrays again.

    Attributes:
      treedef: the structure.
      keys: of each typed key, its index among the leaves and its implementation.
    """

    treedef: Any
    keys: tuple[tuple[int, Any], ...]

    def flat(self, tree: PyTree) -> list[Any]:
        """The leaves of a tree of this form, keys as their words."""
        leaves = jax.tree.leaves(tree)
        for index, _ in self.keys:
            leaves[index] = jax.random.key_data(leaves[index])
        return leaves

    def tree(self, leaves: list[Any]) -> Any:
        """The tree of such leaves."""
        leaves = list(leaves)
        for index, kind in self.keys:
            leaves[index] = jax.random.wrap_key_data(leaves[index], impl=kind)
        return jax.tree.unflatten(self.treedef, leaves)


def form_of(tree: PyTree) -> Form:
    """The form of a tree of arrays."""
    leaves, treedef = jax.tree.flatten(tree)
    kinds = (
        jax.random.key_impl(leaf)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else None
        for leaf in leaves
    )
    return Form(treedef, tuple((i, kind) for i, kind in enumerate(kinds) if kind is not None))


def flattened(function: Callable[..., Any], form: Form) -> Callable[[list[Any], Any], list[Any]]:
    """(run, tally, batch) to the next run and tally, as (leaves, batch) to the next leaves."""

    def call(leaves: list[Any], batch: Any) -> list[Any]:
        return form.flat(function(*form.tree(leaves), batch))

    call.__name__ = function.__name__  # by which JAX and its listeners know the program
    return call
