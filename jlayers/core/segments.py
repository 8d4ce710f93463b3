"""Values that are summed by where they belong: the messages of a graph's edges, by node.

Segments that nothing valid belongs to are zeros, whatever the reduction.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from .dispatch import traced_once
from .dtypes import at_least_float32, max_value, min_value

REDUCTIONS = ("sum", "mean", "max", "min")


@traced_once("count", "reduce")
def segment_reduce(
    values: jax.Array,
    segments: jax.Array,
    valid: jax.Array | None = None,
    *,
    count: int,
    reduce: str = "sum",
) -> jax.Array:
    """The sum, mean, maximum or minimum of the values of each segment.

    Args:
      values: (values, ...).
      segments: ints (values,), from 0 to ``count - 1``, in any order.
      valid: bools (values,), which of them count; all where it is None.
      count: how many segments there are.
      reduce: one of ``REDUCTIONS``.

    Returns:
      (count, ...), of the dtype of ``values``; sums are taken in float32 at least.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> values, segments = jnp.array([1.0, 2.0, 5.0]), jnp.array([0, 0, 2])
    >>> jl.core.segment_reduce(values, segments, count=3, reduce="mean").tolist()
    [1.5, 0.0, 5.0]
    """
    there = jnp.ones(segments.shape, bool) if valid is None else valid
    if reduce in ("max", "min"):
        largest = reduce == "max"
        fill = (min_value if largest else max_value)(values.dtype)
        kept = _where(there, values, fill)
        function = jax.ops.segment_max if largest else jax.ops.segment_min
        found = function(kept, segments, count)
        some = jax.ops.segment_max(there.astype(jnp.int32), segments, count) > 0
        return _where(some, found, 0)
    wide = at_least_float32(values.dtype)
    kept = _where(there, values, 0).astype(wide)
    total = jax.ops.segment_sum(kept, segments, count)
    if reduce == "mean":
        size = jax.ops.segment_sum(there.astype(wide), segments, count)
        size = jnp.maximum(size, 1).reshape(size.shape[0], *(1,) * (total.ndim - 1))
        total = total / jnp.broadcast_to(size, total.shape)
    return total.astype(values.dtype)


@traced_once("count")
def segment_softmax(
    scores: jax.Array, segments: jax.Array, valid: jax.Array | None = None, *, count: int
) -> jax.Array:
    """The softmax of the scores of each segment; zeros where they do not count.

    Args:
      scores: (values, ...), floating.
      segments, valid, count: as for ``segment_reduce``.

    Returns:
      (values, ...), of the dtype of ``scores``, computed in float32 at least.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> scores, segments = jnp.zeros(3), jnp.array([0, 0, 1])
    >>> jl.core.segment_softmax(scores, segments, count=2).tolist()
    [0.5, 0.5, 1.0]
    """
    wide = scores.astype(at_least_float32(scores.dtype))
    # Subtracted for range alone: it changes nothing, so it has no gradient.
    most = segment_reduce(jax.lax.stop_gradient(wide), segments, valid, count=count, reduce="max")
    there = jnp.ones(segments.shape, bool) if valid is None else valid
    # A value that does not count may be anything: it is left out before the exponential.
    parts = jnp.exp(_where(there, wide - most[segments], -jnp.inf))
    total = segment_reduce(parts, segments, count=count)[segments]
    return (parts / jnp.where(total > 0, total, jnp.ones_like(total))).astype(scores.dtype)


def _where(mask: jax.Array, values: jax.Array, fill: float | np.ndarray) -> jax.Array:
    """A select by rows; a product would keep NaN."""
    shaped = mask.reshape(*mask.shape, *(1,) * (values.ndim - 1))
    other = jnp.full_like(values, fill)
    return jnp.where(jnp.broadcast_to(shaped, values.shape), values, other)
