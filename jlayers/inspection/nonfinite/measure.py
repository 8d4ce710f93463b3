"""Measuring a tree: how many of its values are not finite, and the range of the others."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ...base.sequence import Sequence, is_sequence
from ...base.types import PyTree

# A measurement, for each row of the batch: how many values are NaN and how many infinite, and the
# least and the largest finite one. An array without an axis of rows is all in the first.
NAN, INF, LOW, HIGH = range(4)


# Counts are floats as well, so that a measurement is one array; in float32 they are exact to 2**24.
def wide_dtype() -> Any:
    return jax.dtypes.canonicalize_dtype(float)


def measured(tree: PyTree, rows: int) -> jax.Array:
    """The measurement of all floating and complex numbers of a tree, (rows or 1, 4).

    Padded values of a ``Sequence`` do not count.
    """
    leaves, _, _ = floating(lax.stop_gradient(tree))
    return measured_arrays(leaves, max(rows, 1))


def measured_arrays(leaves: list[tuple[jax.Array, Any]], rows: int) -> jax.Array:
    parts = [_of_array(leaf, mask, rows) for leaf, mask in leaves]
    return functools.reduce(_joined, parts) if parts else _nothing(rows)


def _nothing(rows: int) -> jax.Array:
    one = jnp.asarray([0, 0, jnp.inf, -jnp.inf], wide_dtype())
    return jnp.broadcast_to(one, (rows, 4))


def _joined(a: jax.Array, b: jax.Array) -> jax.Array:
    least, largest = jnp.minimum(a, b), jnp.maximum(a, b)
    return jnp.concatenate([(a + b)[:, :LOW], least[:, LOW:HIGH], largest[:, HIGH:]], 1)


# Compiled apart, it is traced once for all arrays of one shape.
@functools.partial(jax.jit, static_argnums=2)
def _of_array(x: jax.Array, mask: Any, rows: int) -> jax.Array:
    wide = wide_dtype()
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        pair = _of_array(x.real, mask, rows), _of_array(x.imag, mask, rows)
        return _joined(*pair)
    if x.dtype.itemsize < 4:
        x = x.astype(jnp.float32)  # float8 has no isnan; all narrow floats are exact in float32
    tests = [jnp.isnan(x), jnp.isinf(x), jnp.isfinite(x)]
    if mask is not None:
        spread = mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))
        tests = [test & jnp.broadcast_to(spread, x.shape) for test in tests]
    nan, inf, sound = tests
    x = x.astype(wide)
    none = jnp.full_like(x, jnp.inf)
    columns = (
        nan.astype(wide),
        inf.astype(wide),
        jnp.where(sound, x, none),
        jnp.where(sound, x, -none),
    )
    # Under each_step the steps are folded into the batch.
    by_row = x.ndim > 0 and x.shape[0] % rows == 0
    flat = [column.reshape(rows if by_row else 1, -1) for column in columns]
    # All at once: four reductions would be most of what there is to compile.
    start = tuple(jnp.asarray(value, wide) for value in (0, 0, jnp.inf, -jnp.inf))
    found = jnp.stack(lax.reduce(tuple(flat), start, _reduced, (1,)), 1)
    return found if by_row else _nothing(rows).at[0].set(found[0])


def _reduced(a: Any, b: Any) -> Any:
    return a[NAN] + b[NAN], a[INF] + b[INF], lax.min(a[LOW], b[LOW]), lax.max(a[HIGH], b[HIGH])


def floating(tree: PyTree) -> tuple[list[tuple[jax.Array, Any]], list[Any], Any]:
    """(array, mask or None) of each inexact leaf, all leaves, and their treedef."""
    leaves, treedef = jax.tree.flatten(tree, is_leaf=is_sequence)
    chosen = [
        (leaf.values, leaf.mask) if isinstance(leaf, Sequence) else (leaf, None)
        for leaf in leaves
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return chosen, leaves, treedef
