"""The ``repr`` of states: how many arrays and numbers there are, in place of all the numbers."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from ..base.specs import format_spec
from ..base.types import PyTree


def short_repr(name: str, **fields: Any) -> str:
    """``TrainState(step=3, params=<2 arrays, 12 numbers>)``."""
    return f"{name}({', '.join(f'{field}={brief(value)}' for field, value in fields.items())})"


def brief(value: PyTree) -> str:
    """A tree of arrays by its counts, one number by its value, all else by its ``repr``."""
    if isinstance(value, jax.Array | jax.ShapeDtypeStruct):
        return _array(value)
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(value) if hasattr(leaf, "shape")]
    if not sizes:
        return repr(value)
    arrays = "1 array" if len(sizes) == 1 else f"{len(sizes)} arrays"
    numbers = "1 number" if sum(sizes) == 1 else f"{sum(sizes):,} numbers"
    return f"<{arrays}, {numbers}>"


def _array(value: Any) -> str:
    concrete = isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer)
    if not concrete or value.shape or jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return format_spec(value)
    # Of an array on other processes, or one that was donated, there is nothing to read.
    known = value.is_fully_addressable and not value.is_deleted()
    return str(value.item()) if known else format_spec(value)
