"""Statistics of captured values: what ``capture(reduce=)`` and the hook of ``fit`` know by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from ..base.errors import LayerError, calling_user_code
from ..base.sequence import Sequence, is_sequence
from ..base.specs import format_short
from ..base.types import PyTree
from ..core.dtypes import at_least_float32

Reduce: TypeAlias = str | tuple[str, ...] | Callable[[PyTree], PyTree]

# How many intervals a histogram has.
BINS = 32


def _count(valid: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.sum(valid, dtype=jnp.int32), 1)


def _mean(x: jax.Array, valid: jax.Array) -> jax.Array:
    return jnp.sum(x, where=valid) / _count(valid).astype(x.dtype)


def _std(x: jax.Array, valid: jax.Array) -> jax.Array:
    return jnp.sqrt(_mean(jnp.square(x - _mean(x, valid)), valid))


def _norm(x: jax.Array, valid: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(x), where=valid))


def _histogram(x: jax.Array, valid: jax.Array) -> dict[str, jax.Array]:
    # One NaN would otherwise leave nothing to see of the others.
    finite = valid & jnp.isfinite(x)
    least = jnp.min(x, where=finite, initial=jnp.inf)
    most = jnp.max(x, where=finite, initial=-jnp.inf)
    none = least > most
    least, most = jnp.where(none, 0, least), jnp.where(none, 1, most)
    values = jnp.where(finite, x, least).ravel()
    counts, edges = jnp.histogram(
        values, BINS, range=(least, most), weights=finite.ravel().astype(x.dtype)
    )
    return {"counts": counts, "edges": edges}


def _dead(x: jax.Array, valid: jax.Array) -> jax.Array:
    units = (-1, x.shape[-1] if x.ndim else 1)
    zero = jnp.where(valid, x == 0, True).reshape(units)
    return jnp.mean(jnp.all(zero, 0), dtype=x.dtype)


STATISTICS: dict[str, Callable[[jax.Array, jax.Array], PyTree]] = {
    "mean": _mean,
    "std": _std,
    "norm": _norm,
    "histogram": _histogram,
    "dead": _dead,
}


def reduction(reduce: Reduce | None) -> Callable[[PyTree], PyTree]:
    """What ``reduce=`` makes of a captured value.

    Raises:
      LayerError: for an unknown statistic, and for anything but names or a function.
    """
    if reduce is None:
        return lambda value: value
    if callable(reduce):
        return lambda value: _by_user(reduce, value)
    names = (reduce,) if isinstance(reduce, str) else reduce
    if not isinstance(names, tuple | list) or not names or not set(names) <= set(STATISTICS):
        raise LayerError(
            f"reduce must be names of statistics or a function, got {format_short(reduce)}",
            expected=", ".join(map(repr, STATISTICS)),
        )

    def of_leaf(leaf: Any) -> PyTree:
        values = leaf.values if isinstance(leaf, Sequence) else jnp.asarray(leaf)
        wide = jnp.float32
        if jnp.issubdtype(values.dtype, jnp.floating):
            wide = at_least_float32(values.dtype)
        # The derivative of a root at 0 is infinite, also where nothing of it is used.
        values = jax.lax.stop_gradient(values).astype(wide)
        valid = jnp.ones(values.shape, bool)
        if isinstance(leaf, Sequence):
            mask = leaf.mask
            valid = jnp.broadcast_to(
                mask.reshape(*mask.shape, *(1,) * (values.ndim - mask.ndim)), values.shape
            )
        found = {name: STATISTICS[name](values, valid) for name in names}
        return found[reduce] if isinstance(reduce, str) else found

    return lambda value: jax.tree.map(of_leaf, value, is_leaf=is_sequence)


def _by_user(reduce: Callable[[PyTree], PyTree], value: PyTree) -> PyTree:
    with calling_user_code("reduce"):
        return reduce(value)
