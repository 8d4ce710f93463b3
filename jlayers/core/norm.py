"""Statistics and normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .derive import with_gradient
from .dtypes import at_least_float32


def batch_statistics(x: jax.Array, axes: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance over ``axes``, kept as axes of size 1.

    Computed in float32 at least, the variance from the centred values: the difference of two
    large means would lose it.

    Args:
      x: an array.
      axes: axes to reduce.

    Returns:
      (mean, variance), of ``x``'s rank, float32 or wider.
    """
    wide = x.astype(at_least_float32(x.dtype))
    mean = jnp.mean(wide, axes, keepdims=True)
    centred = wide - jnp.broadcast_to(mean, wide.shape)
    return mean, jnp.mean(lax.square(centred), axes, keepdims=True)


def normalize(
    x: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
) -> jax.Array:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias``.

    Args:
      x: an array.
      mean, variance: of ``x``'s rank, with size 1 on the axes that they were taken over.
      scale, bias: of ``x``'s rank and broadcast over the axes of size 1, or None.
      epsilon: keeps the root from zero.

    Returns:
      An array like ``x``; the arithmetic is done in the dtype of the statistics.
    """
    factor = lax.rsqrt(variance + epsilon)
    y = x.astype(mean.dtype) - jnp.broadcast_to(mean, x.shape)
    y = y * jnp.broadcast_to(factor, x.shape)
    if scale is not None:
        y = y * jnp.broadcast_to(scale.astype(y.dtype), x.shape)
    if bias is not None:
        y = y + jnp.broadcast_to(bias.astype(y.dtype), x.shape)
    return y.astype(x.dtype)


def standardize(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
    axes: Sequence[int],
    centre: bool = True,
) -> jax.Array:
    """``normalize`` with the statistics of ``x`` itself, and a gradient program of its own.

    XLA on CPU makes of the derivative of the statistics a program that computes the same sums
    several times. Here each is computed once.

    Args:
      x: an array.
      scale, bias: of ``x``'s rank and broadcast over the axes of size 1, or None.
      epsilon: keeps the root from zero.
      axes: those that the statistics are taken over.
      centre: whether the mean is taken off; without, the variance is the mean square.

    Returns:
      An array like ``x``; the arithmetic is done in float32 at least.
    """
    wide = at_least_float32(x.dtype)
    axes = tuple(axes)
    given = [x, *(a.astype(wide) for a in (scale, bias) if a is not None)]

    def unpack(args: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
        rest = list(args[1:])
        factor = None if scale is None else rest.pop(0)
        return args[0], factor, rest[0] if rest else None

    def statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        if centre:
            return batch_statistics(x, axes)
        square = jnp.mean(lax.square(x.astype(wide)), axes, keepdims=True)
        return jnp.zeros_like(square), square

    def forward(*args: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        x, scale, bias = unpack(args)
        mean, variance = statistics(x)
        return normalize(x, mean, variance, scale, bias, epsilon), (mean, variance)

    def backward(args: Any, residuals: Any, ct: jax.Array) -> Any:
        x, scale, bias = unpack(args)
        mean, variance = residuals
        factor = jnp.broadcast_to(lax.rsqrt(variance + epsilon), x.shape)
        y = (x.astype(wide) - jnp.broadcast_to(mean, x.shape)) * factor
        ct = ct.astype(wide)
        grads = [] if scale is None else [_sum_like(ct * y, scale)]
        grads += [] if bias is None else [_sum_like(ct, bias)]
        if scale is not None:
            ct = ct * jnp.broadcast_to(scale, x.shape)
        along = jnp.mean(ct * y, axes, keepdims=True)
        of_x = ct - y * jnp.broadcast_to(along, x.shape)
        if centre:
            of_x = of_x - jnp.broadcast_to(jnp.mean(ct, axes, keepdims=True), x.shape)
        return ((of_x * factor).astype(x.dtype), *grads)

    return with_gradient(forward, backward)(*given)  # type: ignore[no-any-return]


def _sum_like(x: jax.Array, like: jax.Array) -> jax.Array:
    """``x`` summed over the axes along which ``like`` is broadcast."""
    axes = [i for i, (m, n) in enumerate(zip(x.shape, like.shape, strict=True)) if n == 1 != m]
    return jnp.sum(x, axes, keepdims=True)
