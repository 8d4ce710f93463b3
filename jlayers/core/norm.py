"""Statistics and normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .custom_gradient import with_gradient
from .dtypes import at_least_float32

# Up to this square of mean / deviation, the difference of two means has a variance to 5 digits.
_NEAR = 64.0


def batch_statistics(x: jax.Array, axes: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance over ``axes``, kept as axes of size 1.

    Computed in float32 at least, the variance from the centred values wherever the difference of
    two large means would lose it.

    Args:
      x: an array.
      axes: axes to reduce.

    Returns:
      (mean, variance), of ``x``'s rank, float32 or wider.
    """
    dtype, count = at_least_float32(x.dtype), math.prod(x.shape[axis] for axis in axes)

    def mean_of(values: jax.Array) -> jax.Array:
        return jnp.mean(values, axes, keepdims=True)

    def backward(args: Any, _: Any, ct: jax.Array) -> Any:
        # The values about their mean add up to nothing: so does the gradient of the mean.
        x, mean = args
        dx = _centred(x, mean) * jnp.broadcast_to(2 * ct / count, x.shape)
        return dx.astype(x.dtype), jnp.zeros_like(mean)

    mean = mean_of(x.astype(dtype))
    variance = with_gradient(lambda x, mean: (_variance(x, mean, mean_of), ()), backward)
    return mean, variance(x, mean)


def _variance(
    x: jax.Array, mean: jax.Array, mean_of: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """The mean square of ``x`` about its ``mean``."""

    def exact(x: jax.Array, mean: jax.Array) -> jax.Array:
        return mean_of(lax.square(_centred(x, mean)))

    def quick(x: jax.Array, mean: jax.Array) -> jax.Array:
        # On CPU sums of values and of squares are one pass, and those of centred values another.
        variance = mean_of(lax.square(x.astype(mean.dtype))) - lax.square(mean)
        sure = jnp.all(lax.square(mean) <= _NEAR * variance)
        chosen: jax.Array = lax.cond(sure, lambda: variance, lambda: exact(x, mean))
        return chosen

    result: jax.Array = lax.platform_dependent(x, mean, cpu=quick, default=exact)
    return result


def _centred(x: jax.Array, mean: jax.Array) -> jax.Array:
    return x.astype(mean.dtype) - jnp.broadcast_to(mean, x.shape)


def normalize(
    x: jax.Array,
    mean: jax.Array | None,
    variance: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
) -> jax.Array:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias``.

    Args:
      x: an array.
      mean, variance: of ``x``'s rank, with size 1 on the axes that they were taken over. Without
        a mean, ``x`` is not centred and the variance is its mean square.
      scale, bias: of ``x``'s rank and broadcast over the axes of size 1, or None.
      epsilon: keeps the root from zero.

    Returns:
      An array like ``x``; the arithmetic is done in the dtype of the statistics.
    """
    factor = lax.rsqrt(variance + epsilon)
    y = x.astype(variance.dtype)
    if mean is not None:
        y = y - jnp.broadcast_to(mean, x.shape)
    y = y * jnp.broadcast_to(factor, x.shape)
    if scale is not None:
        y = y * jnp.broadcast_to(scale.astype(y.dtype), x.shape)
    if bias is not None:
        y = y + jnp.broadcast_to(bias.astype(y.dtype), x.shape)
    return y.astype(x.dtype)


def standardize_valid(
    x: jax.Array,
    mask: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
    axes: Sequence[int],
    groups: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``standardize`` by the statistics of the steps in ``mask`` alone.

    Args:
      mask: bools, of the first axes of ``x``. The rest are those of ``standardize``; the values
        outside are finite.

    Returns:
      As ``standardize``: mean 0 and variance 1 where the mask leaves nothing.
    """
    wide, axes, channels = at_least_float32(x.dtype), tuple(axes), x.shape[-1]
    inside = mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))
    groups = channels if groups is None else groups
    parts = (*x.shape[:-1], groups, channels // groups)
    # The statistics of groups: their channels are one more axis to sum over.
    values = x.astype(wide).reshape(parts)
    inside = jnp.broadcast_to(inside[..., None], parts)
    over = (*axes, len(parts) - 1)
    count = jnp.sum(inside, over, keepdims=True, dtype=wide)
    some = count > 0

    def mean_of(values: jax.Array) -> jax.Array:
        total = jnp.sum(jnp.where(inside, values, jnp.zeros_like(values)), over, keepdims=True)
        return total / jnp.maximum(count, jnp.ones_like(count))

    def of_channels(values: jax.Array) -> jax.Array:
        shape = (*values.shape[:-2], groups, channels // groups)
        return jnp.broadcast_to(values, shape).reshape(*shape[:-2], channels)

    mean = mean_of(values)
    variance = mean_of(lax.square(_centred(values, mean)))
    variance = jnp.where(some, variance, jnp.ones_like(variance))
    mean, variance = of_channels(mean), of_channels(variance)
    scale, bias = (
        None if row is None else row.reshape((1,) * (x.ndim - 1) + (channels,))
        for row in (scale, bias)
    )
    return normalize(x, mean, variance, scale, bias, epsilon), mean, variance


def standardize(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
    axes: Sequence[int],
    groups: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``normalize`` by the statistics of ``x``, each channel's or each group of channels' own.

    The gradient is a program of its own, of two sums over ``axes`` and one pass over ``x``: what
    autodiff makes of the statistics goes over ``x`` more often.

    Args:
      x: (..., channels).
      scale, bias: (channels,), or None.
      epsilon: keeps the root from zero.
      axes: those that the statistics are taken over, without the last.
      groups: how many groups of neighbouring channels share theirs; as many as channels, if None.

    Returns:
      (an array like ``x``, mean, biased variance). The last two are of ``x``'s rank with size 1 on
      ``axes``, repeated for the channels of a group. The arithmetic is float32 at least.
    """
    wide = at_least_float32(x.dtype)
    axes, channels = tuple(axes), x.shape[-1]
    count = math.prod(x.shape[axis] for axis in axes)
    scale = jnp.ones(channels, x.dtype) if scale is None else scale
    bias = jnp.zeros(channels, x.dtype) if bias is None else bias
    others = tuple(axis for axis in range(x.ndim - 1) if axis not in axes)

    def mean_of(values: jax.Array) -> jax.Array:
        return of_group(jnp.mean(values, axes, keepdims=True))

    def of_group(values: jax.Array) -> jax.Array:
        """The mean over each group of channels, once for each of them."""
        if groups in (None, channels):
            return values
        parts = values.reshape(*values.shape[:-1], groups, -1)
        means = jnp.mean(parts, -1, keepdims=True)
        return jnp.broadcast_to(means, parts.shape).reshape(values.shape)

    def of_channels(value: jax.Array) -> jax.Array:
        return value.astype(wide).reshape((1,) * (x.ndim - 1) + (channels,))

    def forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> Any:
        mean = mean_of(x.astype(wide))
        variance = _variance(x, mean, mean_of)
        root = lax.rsqrt(variance + epsilon)
        factor = jnp.broadcast_to(root * of_channels(scale), x.shape)
        y = _centred(x, mean) * factor + jnp.broadcast_to(of_channels(bias), x.shape)
        return (y.astype(x.dtype), mean, variance), (mean, root)

    def backward(args: Any, residuals: Any, ct: Any) -> Any:
        (x, scale, _), (mean, root), (dy, dmean, dvariance) = args, residuals, ct
        dy, factor = dy.astype(wide), of_channels(scale)
        total = jnp.sum(dy, axes, keepdims=True)
        along = jnp.sum(dy * _centred(x, mean), axes, keepdims=True)
        # dx = dy * first - (x - mean) * second + third, all three the channels' own.
        first = root * factor
        second = root * root * root * of_group(factor * along) - 2 * of_group(dvariance)
        third = of_group(dmean) - root * of_group(factor * total)
        dx = dy * jnp.broadcast_to(first, x.shape)
        dx = dx - _centred(x, mean) * jnp.broadcast_to(second / count, x.shape)
        dx = dx + jnp.broadcast_to(third / count, x.shape)
        dscale, dbias = (jnp.sum(d, others).reshape(-1) for d in (along * root, total))
        return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(scale.dtype)

    return with_gradient(forward, backward)(x, scale, bias)  # type: ignore[no-any-return]
