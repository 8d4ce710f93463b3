"""Whether a step is finite: flags that cost next to nothing, and updates that depend on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from ..base.types import PyTree

Tree = TypeVar("Tree")

# Smaller leaves (biases, scales) are read in full; of larger ones the first slice along each axis.
_SMALL = 4096


def is_finite(tree: PyTree) -> jax.Array:
    """bool (): whether all numbers of a tree are finite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return _all([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])


def edges_are_finite(gradient: PyTree) -> jax.Array:
    """bool (): whether a gradient seems to be finite, without reading all of it.

    A kernel's gradient is a product. A non-finite value in one of its factors spreads over a row or
    a column of it, so that the first column and the first row show it: 0 * NaN is NaN. An overflow
    in the product itself is not detected here, but in the next step's loss. To read all of the
    gradient costs a step of a small MLP a fifth of its time on a CPU.
    """
    # By dtype, since a concatenation has one.
    parts: dict[jnp.dtype, list[jax.Array]] = {}
    for leaf in jax.tree.leaves(gradient):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            parts.setdefault(leaf.dtype, []).extend(map(jnp.ravel, _edges(leaf)))
    # One test for all: each further loop is noticeable in a small step.
    return _all([jnp.all(jnp.isfinite(jnp.concatenate(own))) for own in parts.values()])


def _edges(leaf: jax.Array) -> list[jax.Array]:
    if leaf.size <= _SMALL:
        return [leaf]
    return [lax.index_in_dim(leaf, 0, axis) for axis in range(leaf.ndim)]


def _all(flags: list[jax.Array]) -> jax.Array:
    return jnp.all(jnp.stack(flags)) if flags else jnp.asarray(True)


def cond_update(
    flag: jax.Array, change: Callable[..., Tree], tree: Tree, *operands: PyTree
) -> Tree:
    """``change(tree, *operands)`` where ``flag`` is True, else ``tree`` unchanged.

    On a CPU this is a branch, which costs nothing. Elsewhere both are computed and one is selected:
    a branch there would make the host wait for the flag, and the selection is part of the update's
    own kernels.
    """

    def branch(tree: Tree, *operands: PyTree) -> Tree:
        return lax.cond(flag, change, lambda tree, *operands: tree, tree, *operands)  # type: ignore[no-any-return]

    def selection(tree: Tree, *operands: PyTree) -> Tree:
        return select_if(flag, change(tree, *operands), tree)

    # By the platform that is compiled for, not by this process's own: a step may be lowered on a
    # CPU to run elsewhere.
    return lax.platform_dependent(tree, *operands, cpu=branch, default=selection)  # type: ignore[no-any-return]


def select_if(flag: jax.Array, new: Tree, old: Tree) -> Tree:
    """The new tree where ``flag`` is True, else the old one."""
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), new, old)  # type: ignore[no-any-return]
