"""Trees of numbers in NumPy: what a check computes beside the layer compiles nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..base.specs import specs_of
from ..base.types import PyTree


def values_for(x: PyTree) -> PyTree:
    """The arrays of ``x``, and for its specs random floats, or integers 0 and 1."""
    made = []
    for i, (leaf, spec) in enumerate(
        zip(jax.tree.leaves(x), jax.tree.leaves(specs_of(x)), strict=True)
    ):
        # A generator for each leaf: its values do not depend on the leaves before it.
        random = np.random.default_rng([11, i])
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            value = leaf
        elif jnp.issubdtype(spec.dtype, jnp.floating):
            value = random.normal(size=spec.shape).astype(spec.dtype)
        else:
            # 0 and 1 are bools, ids of any vocabulary and labels of any number of classes.
            value = random.integers(0, 2, spec.shape).astype(spec.dtype)
        made.append(jnp.asarray(value))
    values: PyTree = jax.tree.unflatten(jax.tree.structure(x), made)
    return values


def is_float(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def map_numpy(function: Callable[..., Any], *trees: PyTree) -> PyTree:
    """``jax.tree.map`` over the leaves as NumPy arrays; keys are left out."""

    def on_leaves(*leaves: Any) -> Any:
        if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
            return leaves[0]
        return function(*map(np.asarray, leaves))

    mapped: PyTree = jax.tree.map(on_leaves, *trees)
    return mapped


def as_float(tree: PyTree, dtype: Any) -> PyTree:
    return map_numpy(lambda a: jnp.asarray(a.astype(dtype)) if is_float(a) else a, tree)


def floats_of(x: PyTree) -> list[Any]:
    return [a for a in jax.tree.leaves(x) if is_float(a)]


def with_floats(floats: list[Any], x: PyTree) -> PyTree:
    remaining = iter(floats)
    return jax.tree.map(lambda a: next(remaining) if is_float(a) else a, x)


def other_than(values: np.ndarray) -> np.ndarray:
    """Other integers, or the bools turned round."""
    return ~values if values.dtype == bool else 1 - values


def with_garbage_row(x: PyTree) -> PyTree:
    """``x`` with NaN in its first row, or other integers than are there."""

    def spoil(a: np.ndarray) -> np.ndarray:
        if a.ndim == 0:
            return a
        # NaN spreads through whatever reads it; of ids only those that are valid can be changed.
        spoiled = a.copy()
        spoiled[0] = np.nan if is_float(a) else other_than(a[0])
        return spoiled

    return map_numpy(spoil, x)


def without_first(tree: PyTree, axis: int) -> PyTree:
    return map_numpy(lambda a: np.delete(a, 0, axis), tree)


def random_like(tree: PyTree, seed: int) -> PyTree:
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda a: generator.normal(size=a.shape).astype(a.dtype), tree)


def moved(at: PyTree, direction: PyTree, step: float) -> PyTree:
    return map_numpy(lambda a, d: (a + step * d).astype(a.dtype), at, direction)


def dot(a: PyTree, b: PyTree) -> np.ndarray:
    terms = jax.tree.leaves(map_numpy(lambda a, b: np.sum(a * b), a, b))
    return np.asarray(sum(terms, 0.0))


def stacked(trees: list[PyTree]) -> PyTree:
    return map_numpy(lambda *leaves: np.stack(leaves), *trees)


def item(tree: PyTree, i: int) -> PyTree:
    return map_numpy(lambda a: a[i], tree)


def difference_of(got: Any, expected: Any, **tolerance: Any) -> str:
    """What NumPy says of two leaves that differ, empty where they do not."""
    try:
        np.testing.assert_allclose(numbers(got), numbers(expected), **tolerance)
    except AssertionError as error:
        return str(error).strip()
    return ""


def numbers(a: Any) -> np.ndarray:
    """The values of a leaf for a comparison, those of a key as its words."""
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(a))
    # All narrower numbers are exact in float64; ints of 64 bits would not be.
    return np.asarray(a, np.float64 if a.dtype.itemsize < 8 else a.dtype)
