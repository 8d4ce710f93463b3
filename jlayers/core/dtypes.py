"""What the numerics need to know about an array: its dtype, its range, its sizes, and its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import DTypeLike


def at_least_float32(dtype: DTypeLike) -> np.dtype:
    """``dtype``, or float32 for the narrower floats: for sums and statistics.

    >>> import jax.numpy as jnp
    >>> str(at_least_float32(jnp.bfloat16)), str(at_least_float32(jnp.float64))
    ('float32', 'float64')
    """
    # Not jnp.promote_types, which refuses two different dtypes under strict promotion.
    wide = jnp.dtype(dtype)
    return wide if wide.itemsize >= 4 else jnp.dtype(jnp.float32)


def min_value(dtype: DTypeLike) -> np.ndarray:
    """The smallest value of a dtype as a scalar: minus infinity for floats.

    >>> import jax.numpy as jnp
    >>> float(min_value(jnp.float32)), int(min_value(jnp.int8))
    (-inf, -128)
    """
    floating = jnp.issubdtype(dtype, jnp.floating)
    # np.finfo(dtype).min would not do: a window of -inf alone would then have a larger maximum.
    return np.array(-np.inf if floating else np.iinfo(jnp.dtype(dtype)).min, dtype)


def max_value(dtype: DTypeLike) -> np.ndarray:
    """The largest value of a dtype as a scalar: infinity for floats.

    >>> import jax.numpy as jnp
    >>> float(max_value(jnp.float32)), int(max_value(jnp.int8))
    (inf, 127)
    """
    floating = jnp.issubdtype(dtype, jnp.floating)
    return np.array(np.inf if floating else np.iinfo(jnp.dtype(dtype)).max, dtype)


def rounding_at_zero(dtype: DTypeLike) -> float:
    """How far apart two numbers next to 0 may be by rounding alone; 0 for integers.

    Numbers below the smallest normal one are 0 on some processors. In float16 they are not so
    small, and kept: there it is a few of their steps.

    >>> import jax.numpy as jnp
    >>> [f"{rounding_at_zero(dtype):.0e}" for dtype in (jnp.float32, jnp.float16)]
    ['1e-38', '2e-07']
    """
    if not jnp.issubdtype(dtype, jnp.inexact):
        return 0.0
    # Untyped; NumPy's knows no bfloat16.
    finfo: Any = ml_dtypes.finfo
    info = finfo(jnp.dtype(dtype))
    flushed = info.maxexp >= np.finfo(np.float32).maxexp
    return float(info.tiny if flushed else 4 * info.smallest_subnormal)


def is_symbolic(*sizes: int) -> bool:
    """Whether a size has no number yet, as in a program that is exported for all sizes.

    Comparisons of such sizes raise, so each choice of an algorithm asks this first, and takes the
    form that is right for all of them.

    >>> import jax
    >>> is_symbolic(3, 4), is_symbolic(3, *jax.export.symbolic_shape("2 * batch"))
    (False, True)
    """
    return any(not isinstance(size, int | np.integer) for size in sizes)


def has_sharded_type(x: jax.Array) -> bool:
    """Whether an axis of ``x`` is sharded over an explicit axis of a mesh, as its type says."""
    return any(jax.typeof(x).sharding.spec)


def is_sharded(x: jax.Array) -> bool:
    """Whether ``x`` may be sharded over devices, so that XLA is to be given its own operations.

    It is where its type says so, and where a mesh is around (``jax.set_mesh``, or a step of
    training that has one) whose axes are not manual. JAX or XLA then has to infer the sharding of
    every intermediate result, and does so most reliably for operations that leave axes as they
    are: the algorithms of this package that merge axes or scan step aside.
    """
    if has_sharded_type(x):
        return True
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and any(
        size > 1 and kind != AxisType.Manual
        for size, kind in zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    )


def reshape_rows(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """``x.reshape(shape)``, whose first axis is split over explicit axes of a mesh as that of x is.

    JAX does not infer it where other axes are merged and split at once. Where more than the first
    axis is split, it asks for the sharding of the result.
    """
    first, *others = jax.typeof(x).sharding.spec or (None,)
    if first is None or any(others):
        return x.reshape(shape)
    spec = PartitionSpec(first, *(None,) * (len(shape) - 1))
    return lax.reshape(x, shape, out_sharding=NamedSharding(jax.typeof(x).sharding.mesh, spec))


def sharded_as(bools: jax.Array, x: jax.Array) -> jax.Array:
    """Drawn ``bools`` of the shape of ``x``, sharded over explicit axes of a mesh as ``x`` is.

    ``jnp.where`` refuses a condition that is not.
    """
    return bools & jnp.ones_like(x, bool) if has_sharded_type(x) else bools


def turned_round(x: jax.Array) -> jax.Array:
    """Numbers in the opposite order; twice, it is the identity.

    >>> import jax.numpy as jnp
    >>> turned_round(jnp.array([1.0, 2.0])).tolist(), turned_round(jnp.uint8([0, 255])).tolist()
    ([-1.0, -2.0], [255, 0])
    """
    # Integers by the complement: the least one has no negative.
    return -x if jnp.issubdtype(x.dtype, jnp.floating) else ~x
