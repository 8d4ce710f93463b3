"""A layer with values to check it on, and arithmetic on trees of values."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..base.layer import Layer
from ..base.specs import (
    PyTree,
    format_spec,
    path_text,
    placeholders,
    specs_of,
)


class Case:
    """A layer, an input and values for both, in the dtypes that came in."""

    def __init__(self, layer: Layer, x: PyTree):
        self.layer = layer
        self.key = jax.random.key(7)
        self.x = values_for(x)
        self.params, self.state = layer.init(self.key, self.x)
        programs = [
            str(jax.make_jaxpr(lambda p, x: self.apply(p, x, train))(self.params, self.x))  # noqa: B023
            for train in (False, True)
        ]
        # Where training runs the same program, checking it twice costs compilations alone.
        self.modes = (False, True) if programs[0] != programs[1] else (False,)

    def apply(self, params: PyTree, x: PyTree, train: bool, state: PyTree = None) -> Any:
        state = self.state if state is None else state
        return self.layer.apply(params, state, x, key=self.key, train=train)

    def fail(self, law: int, text: str) -> None:
        raise AssertionError(f"law {law}: {self.layer.short()}: {text}")

    def same(self, law: int, text: str, got: PyTree, expected: PyTree, **tolerance: Any) -> None:
        if jax.tree.structure(got) != jax.tree.structure(expected):  # type: ignore[operator]
            self.fail(
                law,
                f"{text}: structure {format_spec(specs_of(got))}, "
                f"not {format_spec(specs_of(expected))}",
            )
        for (path, a), b in zip(
            jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True
        ):
            where = f"{text} {path_text(path)}".strip()
            if a.dtype != b.dtype or a.shape != b.shape:
                self.fail(
                    law, f"{where}: {format_spec(specs_of(a))}, not {format_spec(specs_of(b))}"
                )
            try:
                np.testing.assert_allclose(_numbers(a), _numbers(b), **tolerance)
            except AssertionError as error:
                self.fail(law, f"{where} differs: {str(error).strip()}")


def zeros_of(tree: PyTree) -> PyTree:
    """Zeros of the tree's shapes and dtypes, so that only these are compared."""
    return placeholders(specs_of(tree))


def values_for(x: PyTree) -> PyTree:
    made = []
    for i, (leaf, spec) in enumerate(
        zip(jax.tree.leaves(x), jax.tree.leaves(specs_of(x)), strict=True)
    ):
        key = jax.random.fold_in(jax.random.key(11), i)
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            made.append(jnp.asarray(leaf))
        elif jnp.issubdtype(spec.dtype, jnp.floating):
            made.append(jax.random.normal(key, spec.shape, spec.dtype))
        else:
            made.append(jax.random.bernoulli(key, 0.5, spec.shape).astype(spec.dtype))
    values: PyTree = jax.tree.unflatten(jax.tree.structure(x), made)
    return values


def other_than(values: jax.Array) -> jax.Array:
    """Other integers, or the bools turned round."""
    return ~values if values.dtype == bool else 1 - values


def as_float(tree: PyTree, dtype: Any) -> PyTree:
    return jax.tree.map(
        lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree
    )


def floats_of(x: PyTree) -> list[jax.Array]:
    return [a for a in jax.tree.leaves(x) if jnp.issubdtype(a.dtype, jnp.floating)]


def with_floats(floats: list[jax.Array], x: PyTree) -> PyTree:
    remaining = iter(floats)
    return jax.tree.map(
        lambda a: next(remaining) if jnp.issubdtype(a.dtype, jnp.floating) else a, x
    )


def random_like(tree: PyTree, seed: int) -> PyTree:
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(generator.normal(size=a.shape), a.dtype), tree)


def moved(at: PyTree, direction: PyTree, step: jax.Array) -> PyTree:
    return jax.tree.map(lambda a, d: a + step * d, at, direction)


def dot(a: PyTree, b: PyTree) -> jax.Array:
    terms = jax.tree.map(lambda a, b: jnp.sum(a * b), a, b)
    return sum(jax.tree.leaves(terms), jnp.zeros(()))


def stacked(trees: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def item(tree: PyTree, i: int) -> PyTree:
    return jax.tree.map(lambda a: a[i], tree)


def _numbers(a: jax.Array) -> np.ndarray:
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(a))
    return np.asarray(a, np.float64 if a.dtype.itemsize < 8 else a.dtype)
