"""Layer and RMS norm over any axes: ``position_norm`` and ``standardize`` where they fit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from .dtypes import at_least_float32, is_sharded
from .norm import normalize, standardize
from .position_norm import position_norm


def axes_norm(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
    axes: Sequence[int],
    feature_axes: Sequence[int],
    centred: bool = True,
) -> jax.Array:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias`` over several axes.

    Args:
      x: an array.
      scale, bias: of the sizes of ``feature_axes``, or None.
      epsilon: keeps the root from zero.
      axes: those that the statistics are taken over, in ascending order, not negative.
      feature_axes: those of ``scale`` and ``bias``, in the same way.
      centred: as for ``position_norm``.

    Returns:
      An array like ``x``. The arithmetic is float32 at least.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([[[1.0, 1.0], [3.0, 3.0]]])
    >>> jl.core.axes_norm(x, None, None, 0.0, (1, 2), (1, 2)).tolist()
    [[[-1.0, -1.0], [1.0, 1.0]]]
    """
    axes, feature_axes, rank = tuple(axes), tuple(feature_axes), x.ndim
    plain = scale is None and bias is None
    first = rank - len(axes)
    if axes == tuple(range(first, rank)) and (plain or feature_axes == axes):
        if len(axes) == 1:
            return position_norm(x, scale, bias, epsilon, centred)
        # A reshape of sharded axes is one that JAX may not know how to shard.
        if not is_sharded(x):
            flat = (*x.shape[:first], math.prod(x.shape[first:]))
            scale, bias = (None if row is None else row.reshape(-1) for row in (scale, bias))
            y = position_norm(x.reshape(flat), scale, bias, epsilon, centred)
            return y.reshape(x.shape)
    last = rank - 1
    if centred and (plain or feature_axes == (last,)):
        others = tuple(axis for axis in axes if axis != last)
        return standardize(x, scale, bias, epsilon, others, 1 if last in axes else None)[0]
    wide = x.astype(at_least_float32(x.dtype))
    mean = jnp.mean(wide, axes, keepdims=True) if centred else None
    about = wide if mean is None else wide - jnp.broadcast_to(mean, x.shape)
    variance = jnp.mean(jnp.square(about), axes, keepdims=True)
    shape = tuple(size if axis in feature_axes else 1 for axis, size in enumerate(x.shape))
    scale, bias = (None if row is None else row.reshape(shape) for row in (scale, bias))
    return normalize(x, mean, variance, scale, bias, epsilon)
