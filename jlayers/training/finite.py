"""Is a step sound? Flags that cost next to nothing, and updates that depend on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from ..base.specs import PyTree

Run = TypeVar("Run")

# Biases and scales are looked at whole; of what is larger, the first slice along each axis is.
_SMALL = 4096


def finite(tree: PyTree) -> jax.Array:
    """bool (): whether all numbers of a tree are finite."""
    return _all([_finite(leaf) for leaf in jax.tree.leaves(tree)])


def finite_at_the_edges(gradient: PyTree) -> jax.Array:
    """bool (): whether a gradient seems to be finite, without reading all of it.

    A kernel's gradient is a product. What is not finite in one of its factors spreads over a row or
    a column of it, so that the first column and the first row show it: 0 * NaN is NaN. What only
    overflows in the product itself goes unseen here, and is seen in the next step's loss. To read
    all of the gradient costs a step of a small MLP a fifth of its time on a CPU.
    """
    parts: dict[Any, list[jax.Array]] = {}
    for leaf in jax.tree.leaves(gradient):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            parts.setdefault(leaf.dtype, []).extend(map(jnp.ravel, _edges(leaf)))
    # One test for all: a small step feels each further loop.
    return _all([jnp.all(jnp.isfinite(jnp.concatenate(own))) for own in parts.values()])


def _edges(leaf: jax.Array) -> list[jax.Array]:
    if leaf.size <= _SMALL:
        return [leaf]
    return [lax.index_in_dim(leaf, 0, axis) for axis in range(leaf.ndim)]


def _finite(leaf: Any) -> jax.Array:
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.asarray(True)
    return jnp.all(jnp.isfinite(leaf))


def _all(flags: list[jax.Array]) -> jax.Array:
    return jnp.all(jnp.stack(flags)) if flags else jnp.asarray(True)


def if_sound(sound: jax.Array, change: Callable[..., Run], run: Run, *given: Any) -> Run:
    """``change(run, *given)`` where ``sound`` is True, else the run as it is.

    On a CPU a branch, which costs nothing. Elsewhere both are computed and one is selected: a
    branch there would make the host wait for the flag, and the selection is part of the update's
    own kernels.
    """

    def branch(run: Run, *given: Any) -> Run:
        return lax.cond(sound, change, lambda run, *given: run, run, *given)  # type: ignore[no-any-return]

    def selection(run: Run, *given: Any) -> Run:
        return keep_if(sound, change(run, *given), run)

    return lax.platform_dependent(run, *given, cpu=branch, default=selection)  # type: ignore[no-any-return]


def keep_if(sound: jax.Array, new: Run, old: Run) -> Run:
    """The new tree where ``sound`` is True, else the old one."""
    return jax.tree.map(lambda a, b: jnp.where(sound, a, b), new, old)  # type: ignore[no-any-return]
