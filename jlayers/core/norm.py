"""Statistics and normalisation: batch, group, instance, layer and RMS norm are made of these.

How to read this file: ``normalize`` is the formula for statistics that are given, and
``standardize`` takes them of ``x`` itself, with a gradient written by hand (batch and group norm).
``masked_normalize`` is the same for the valid steps of padded sequences, with the gradient that JAX
derives. ``position_norm.py`` is for layer and RMS norm. ``moments`` is where speed and precision
meet; docs/notes/0008-attention-and-norms.md has the measurements behind all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .custom_gradient import with_custom_gradient
from .dispatch import traced_once
from .dtypes import at_least_float32, is_sharded, is_symbolic

Sums = Callable[[jax.Array], jax.Array]
Triple = tuple[jax.Array, jax.Array, jax.Array]

# E[x^2] - E[x]^2 loses about as many digits as (mean / deviation) ** 2 has. Up to this square, a
# mean of 8 deviations, float32 still has the variance to 5 digits.
_MAX_SQUARED_MEAN = 64.0
# 128 kB of float32. Up to there a second pass over the values takes no longer than a branch.
_MAX_CACHED = 1 << 15
# The most statistics that are searched one by one for one that is far from zero.
_MAX_SEARCHED = 4096


def moments(x: jax.Array, sums_of: Sums, means_of: Sums, epsilon: float) -> Triple:
    """The means of ``x``, its mean squares about them, and the inverse roots of these.

    Args:
      x: an array.
      sums_of: from an array like ``x`` to the sums over what shares a statistic.
      means_of: from such sums to the means, of a shape that ``centre`` takes.
      epsilon: is added before the root.

    Returns:
      (mean, variance, ``1 / sqrt(variance + epsilon)``), in float32 at least.
    """
    wide = at_least_float32(x.dtype)
    first, second = for_uses(x, 2)

    def with_root(mean: jax.Array, variance: jax.Array) -> Triple:
        return mean, variance, inverse_root(lax.add(variance, scalar(epsilon, variance)))

    def two_pass(x: jax.Array, total: jax.Array) -> Triple:
        mean = means_of(total)
        return with_root(mean, means_of(sums_of(lax.square(centre(x, mean)))))

    def one_pass(total: jax.Array, squares: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean = means_of(total)
        return mean, lax.sub(means_of(squares), lax.square(mean))

    def is_precise(total: jax.Array, squares: jax.Array) -> jax.Array:
        mean, variance = one_pass(total, squares)
        bound = lax.mul(variance, scalar(_MAX_SQUARED_MEAN, variance))
        return all_true(lax.le(lax.square(mean), bound))

    total = sums_of(first.astype(wide))
    # Numbers that are in the cache from the first pass cost less than asking if they are needed.
    if not is_symbolic(*x.shape) and x.size <= _MAX_CACHED:
        return two_pass(second, total)
    squares = sums_of(lax.square(second.astype(wide)))
    # On CPU a pass over centred values takes longer than both of these sums: it is taken only where
    # it is needed. Elsewhere it is always taken, and the compiler drops the sum of squares.
    precise: jax.Array = lax.platform_dependent(
        total, squares, cpu=is_precise, default=lambda *_: lax.full((), False)
    )
    # All that follows from the sums is in the branches: XLA:CPU runs a program of up to eight
    # kernels in one go, without a scheduler, and those of a branch do not count.
    chosen: Triple = lax.cond(
        precise, lambda: with_root(*one_pass(total, squares)), lambda: two_pass(x, total)
    )
    return chosen


def all_true(flags: jax.Array) -> jax.Array:
    """Whether all of the flags are True."""
    if is_symbolic(*flags.shape) or is_sharded(flags) or flags.size > _MAX_SEARCHED:
        return lax.reduce_and(flags, tuple(range(flags.ndim)))
    # Where is the first False, in True and the flags? XLA:CPU stores the flags and makes two
    # kernels of their conjunction, and one kernel of this.
    row = lax.pad(lax.reshape(flags, (flags.size,)), np.True_, [(1, 0, 0)])
    return lax.eq(lax.argmin(row, 0, np.int32), np.int32(0))


def for_uses(x: jax.Array, count: int) -> Sequence[jax.Array]:
    """``x`` for as many uses that convert it to float32, where it is narrower.

    Of equal conversions XLA makes one, and stores what has several uses: an array of twice the size
    of ``x``. Sums on CPU convert what they read, each for itself, if nothing says that it is equal.
    """
    if x.dtype == at_least_float32(x.dtype):
        return (x,) * count
    separate: tuple[jax.Array, ...] = lax.platform_dependent(
        x, cpu=lambda x: lax.optimization_barrier((x,) * count), default=lambda x: (x,) * count
    )
    return separate


# The functions below are of `lax` alone: those of `jnp` are each a program within the program,
# which tracing, differentiating and transposing go through one by one.


def centre(x: jax.Array, mean: jax.Array) -> jax.Array:
    """``x - mean``, of the dtype of ``mean``, which is broadcast as by ``spread``."""
    return lax.sub(x.astype(mean.dtype), spread(mean, x.shape))


def spread(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """``x`` broadcast over its axes of size 1, and over axes of ``shape`` that follow its own."""
    return lax.broadcast_in_dim(x, shape, tuple(range(x.ndim)))


def scalar(value: float, like: jax.Array) -> np.ndarray:
    """A number of the dtype of ``like``."""
    return np.array(value, like.dtype)


def _sum(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The sum over ``axes``, which stay as axes of size 1."""
    return lax.expand_dims(lax.reduce_sum(x, axes), axes)


def divided(total: jax.Array, count: int) -> jax.Array:
    """``total / count``, for a count that may be symbolic."""
    divisor = lax.full_like(total, count) if is_symbolic(count) else scalar(count, total)
    return lax.div(total, divisor)


@jax.custom_jvp
def inverse_root(x: jax.Array) -> jax.Array:
    """``1 / sqrt(x)``, and NaN where ``x`` has overflowed: 0 would pass for a value."""
    overflowed = lax.eq(x, scalar(np.inf, x))
    # NaN goes through the root, since what follows it is computed again for each value.
    return lax.rsqrt(lax.select(overflowed, lax.full_like(x, np.nan), x))


@inverse_root.defjvp
def _inverse_root_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # JAX's rule has the cube, which underflows for deviations beyond 1e12, in place of factors.
    y = inverse_root(*primals)
    halved = lax.mul(y, scalar(-0.5, y))
    return y, lax.mul(lax.mul(lax.mul(tangents[0], y), halved), y)


def normalize(
    x: jax.Array,
    mean: jax.Array | None,
    variance: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
) -> jax.Array:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias``, for statistics that are given.

    Args:
      x: an array.
      mean, variance: of the rank of ``x``, with size 1 on the axes that they were taken over.
        Without a mean, ``x`` is not centred and the variance is its mean square (RMS norm).
      scale, bias: of the rank of ``x`` and broadcast over the axes of size 1, or None.
      epsilon: keeps the root from zero.

    Returns:
      An array like ``x``; the arithmetic is done in the dtype of the statistics.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([[1.0, 3.0]])
    >>> y = jl.core.normalize(x, jnp.full((1, 1), 2.0), jnp.full((1, 1), 4.0), None, None, 0.0)
    >>> y.tolist()
    [[-0.5, 0.5]]
    """
    factor = inverse_root(variance + epsilon)
    y = x.astype(variance.dtype)
    # Broadcast explicitly, here and elsewhere in the core: it runs under strict rank promotion.
    if mean is not None:
        y = y - jnp.broadcast_to(mean, x.shape)
    y = y * jnp.broadcast_to(factor, x.shape)
    if scale is not None:
        y = y * jnp.broadcast_to(scale.astype(y.dtype), x.shape)
    if bias is not None:
        y = y + jnp.broadcast_to(bias.astype(y.dtype), x.shape)
    return y.astype(x.dtype)


def masked_normalize(
    x: jax.Array,
    mask: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
    axes: Sequence[int],
    groups: int | None = None,
) -> Triple:
    """``standardize`` by the statistics of the valid steps alone.

    Args:
      x: (..., channels); the values outside the mask must be finite.
      mask: bools of the leading axes of ``x``, True for valid steps.
      scale, bias, epsilon, axes, groups: as for ``standardize``.

    Returns:
      As ``standardize``: (an array like ``x``, mean, biased variance); mean 0 and variance 1 where
      no step is valid.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([[1.0, 3.0, 99.0]])[..., None]
    >>> mask = jnp.array([[True, True, False]])
    >>> y, mean, variance = jl.core.masked_normalize(x, mask, None, None, 0.0, (0, 1))
    >>> mean.item(), variance.item()
    (2.0, 1.0)
    """
    wide, axes, channels = at_least_float32(x.dtype), tuple(axes), x.shape[-1]
    valid = mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))
    groups = channels if groups is None else groups
    grouped = (*x.shape[:-1], groups, channels // groups)
    # The statistics of groups: their channels are one more axis to sum over.
    values = x.astype(wide).reshape(grouped)
    valid = jnp.broadcast_to(valid[..., None], grouped)
    sum_axes = (*axes, len(grouped) - 1)
    count = jnp.sum(valid, sum_axes, keepdims=True, dtype=wide)
    nonempty = count > 0

    def mean_of(values: jax.Array) -> jax.Array:
        total = jnp.sum(jnp.where(valid, values, jnp.zeros_like(values)), sum_axes, keepdims=True)
        return total / jnp.maximum(count, jnp.ones_like(count))

    def per_channel(values: jax.Array) -> jax.Array:
        shape = (*values.shape[:-2], groups, channels // groups)
        return jnp.broadcast_to(values, shape).reshape(*shape[:-2], channels)

    mean = mean_of(values)
    variance = mean_of(lax.square(centre(values, mean)))
    variance = jnp.where(nonempty, variance, jnp.ones_like(variance))
    mean, variance = per_channel(mean), per_channel(variance)
    scale, bias = (
        None if row is None else row.reshape((1,) * (x.ndim - 1) + (channels,))
        for row in (scale, bias)
    )
    return normalize(x, mean, variance, scale, bias, epsilon), mean, variance


@traced_once("epsilon", "axes", "groups")
def standardize(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
    axes: Sequence[int],
    groups: int | None = None,
) -> Triple:
    """``normalize`` by the statistics of ``x`` itself, for each channel or group of channels.

    With ``x_hat = (x - mean) / sqrt(variance + epsilon)`` and ``g = scale * dy``, means taken over
    all values that share a statistic, the gradient of the input is::

        dx = (g - mean(g) - x_hat * mean(g * x_hat)) / sqrt(variance + epsilon)

    It is a program of its own, of two sums over ``axes`` and one pass over ``x``: the one that
    autodiff derives goes over ``x`` once for each of five sums, and took 2.2 to 2.8 times as long.

    Args:
      x: (..., channels).
      scale, bias: (channels,), or None.
      epsilon: keeps the root from zero.
      axes: those that the statistics are taken over, without the last.
      groups: how many groups of neighbouring channels share their statistics (Wu & He, 2018,
        arXiv:1803.08494); as many as channels, if None.

    Returns:
      (an array like ``x``, mean, biased variance). The last two are of the rank of ``x`` with size
      1 on ``axes``, repeated for the channels of a group; mean 0 and variance 1 of no values at
      all. The arithmetic is float32 at least.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
    >>> y, mean, variance = jl.core.standardize(x, None, None, 0.0, axes=(0,))
    >>> y.round(3).tolist(), mean.tolist(), variance.tolist()
    ([[-1.0, -1.0], [1.0, 1.0]], [[2.0, 20.0]], [[1.0, 100.0]])
    """
    wide = at_least_float32(x.dtype)
    axes, channels = tuple(axes), x.shape[-1]
    count = math.prod(x.shape[axis] for axis in axes)
    size = 1 if groups is None else channels // groups
    if 0 in x.shape:  # 0 / 0 would be the statistics of the next batches too
        return masked_normalize(
            x, jnp.zeros(x.shape[:-1], bool), scale, bias, epsilon, axes, groups
        )
    scale = jnp.ones(channels, x.dtype) if scale is None else scale
    bias = jnp.zeros(channels, x.dtype) if bias is None else bias
    other_axes = tuple(axis for axis in range(x.ndim) if axis not in (*axes, x.ndim - 1))

    # First over positions, channel by channel, then over the channels of a group: both at once
    # were 3 times slower.
    def sums_of(values: jax.Array) -> jax.Array:
        return group_sum(_sum(values, axes))

    def means_of(sums: jax.Array) -> jax.Array:
        return divided(sums, count * size)

    def group_sum(values: jax.Array) -> jax.Array:
        """The sum over each group of channels, repeated for every channel of the group."""
        if size == 1:
            return values
        grouped = values.reshape(*values.shape[:-1], channels // size, size)
        return spread(_sum(grouped, (grouped.ndim - 1,)), grouped.shape).reshape(values.shape)

    def group_mean(values: jax.Array) -> jax.Array:
        return values if size == 1 else divided(group_sum(values), size)

    def per_channel(value: jax.Array) -> jax.Array:
        return lax.expand_dims(value.astype(wide), range(x.ndim - 1))

    def forward(
        x: jax.Array, scale: jax.Array, bias: jax.Array
    ) -> tuple[Triple, tuple[jax.Array, jax.Array]]:
        mean, variance, inverse = moments(x, sums_of, means_of, epsilon)
        factor = lax.mul(inverse, per_channel(scale))
        y = lax.mul(centre(x, mean), spread(factor, x.shape))
        y = lax.add(y, spread(per_channel(bias), x.shape))
        return (y.astype(x.dtype), mean, variance), (mean, inverse)

    def backward(
        args: tuple[jax.Array, ...], residuals: tuple[jax.Array, jax.Array], ct: Triple
    ) -> Triple:
        (x, scale, _), (mean, inverse), (dy, dmean, dvariance) = args, residuals, ct
        dy, factor, centred = dy.astype(wide), per_channel(scale), centre(x, mean)
        dy_sum, dy_x_sum = _sum(dy, axes), _sum(lax.mul(dy, centred), axes)
        # dx = dy * a - (x - mean) * b / count + c / count, where a, b and c are per channel: all
        # sums are done before the one pass that writes dx.
        a = lax.mul(inverse, factor)
        # In this order: the cube of the inverse alone underflows for deviations beyond 1e12.
        b = lax.mul(lax.mul(inverse, group_mean(lax.mul(factor, dy_x_sum))), inverse)
        b = lax.sub(lax.mul(b, inverse), lax.mul(group_mean(dvariance), scalar(2, b)))
        c = lax.sub(group_mean(dmean), lax.mul(inverse, group_mean(lax.mul(factor, dy_sum))))
        b, c = (divided(sums, count) for sums in (b, c))
        dx = lax.mul(dy, spread(a, x.shape))
        dx = lax.sub(dx, lax.mul(centred, spread(b, x.shape)))
        dx = lax.add(dx, spread(c, x.shape))
        dscale, dbias = (
            lax.reduce_sum(d, other_axes).reshape(-1) for d in (lax.mul(dy_x_sum, inverse), dy_sum)
        )
        return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(scale.dtype)

    return with_custom_gradient(forward, backward)(x, scale, bias)
