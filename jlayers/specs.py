"""Shapes and dtypes of trees: what a layer may know of its input at init."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .core.dtypes import at_least_float32
from .errors import LayerError

PyTree = Any
Params = dict[str, Any]
State = dict[str, Any]
Spec = jax.ShapeDtypeStruct


def spec(shape: Sequence[int], dtype: Any = jnp.float32) -> Spec:
    """Short for a ``jax.ShapeDtypeStruct``, float32 unless said otherwise.

    >>> spec((32, 784))
    ShapeDtypeStruct(shape=(32, 784), dtype=float32)
    """
    if isinstance(shape, int):
        raise LayerError(
            "a shape is a tuple of ints", got=f"{shape!r}", mend=f"jl.spec(({shape},))"
        )
    return Spec(tuple(shape), dtype)


def specs_of(tree: PyTree, what: str = "x") -> PyTree:
    """The tree with a ``ShapeDtypeStruct`` for every leaf; numpy dtypes as JAX will see them."""
    return jax.tree.map(lambda leaf: _spec_of(leaf, what), tree)


def _spec_of(leaf: Any, what: str) -> Spec:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        dtype = leaf.dtype
        if isinstance(leaf, np.ndarray | np.generic) and dtype.kind in "OUSMmV":
            raise LayerError(f"{what} holds an array of dtype {dtype}", expected="numbers")
        if not jnp.issubdtype(dtype, jax.dtypes.extended):
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        return Spec(leaf.shape, dtype)
    if isinstance(leaf, bool | int | float | complex):
        return Spec((), jnp.result_type(leaf))
    raise LayerError(
        f"{what} holds a {type(leaf).__name__}",
        expected="arrays or jax.ShapeDtypeStructs",
        got=f"{leaf!r}"[:80],
    )


def spec_key(specs: PyTree) -> Hashable:
    """A key under which all that depends on ``specs`` alone can be remembered."""
    leaves, treedef = jax.tree.flatten(specs)
    x64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return x64, treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def placeholders(specs: PyTree) -> PyTree:
    """Zeros of the given specs; inside ``jax.eval_shape`` nothing is computed."""
    return jax.tree.map(_placeholder, specs)


def _placeholder(leaf: Spec) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    return jnp.zeros(leaf.shape, leaf.dtype)


def show(tree: PyTree) -> str:
    """``float32[32, 784]``; tuples and dicts of these; ``no arrays`` for an empty tree."""
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        return f"{tree.dtype}[{', '.join(map(str, tree.shape))}]"
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{name}: {show(value)}" for name, value in tree.items()) + "}"
    if isinstance(tree, tuple | list):
        inner = ", ".join(show(value) for value in tree)
        return f"[{inner}]" if isinstance(tree, list) else f"({inner})"
    if tree is None:
        return "None"
    return type(tree).__name__


def floating_dtype(x: PyTree) -> Any:
    """dtype of the first floating (or complex) leaf of ``x``, None where all are integers."""
    for leaf in jax.tree.leaves(x):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf.dtype
    return None


def storage_dtype(x: PyTree) -> Any:
    """dtype in which parameters for the input ``x`` are stored: float32, or wider if ``x`` is.

    Parameters of a bfloat16 model are kept in float32, and used in the dtype of the input.
    """
    dtype = floating_dtype(x)
    return jnp.float32 if dtype is None else at_least_float32(dtype)
