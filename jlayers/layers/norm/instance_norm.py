"""InstanceNorm: each channel of each example normalised over its positions."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers

from ... import core
from ...base.arguments import NonNegative, UpToOne
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, State
from .base import norm_of_groups
from .batch_base import Moments, Rows, over_the_batch
from .running import Running


@factory
def InstanceNorm(
    *,
    running_statistics: bool = False,
    momentum: UpToOne | None = 0.99,
    unbiased: bool = False,
    epsilon: NonNegative = 1e-5,
    # With parameters as all norms here, and as in Flax; PyTorch's has none by default.
    scale: bool = True,
    bias: bool = True,
    scale_init: Initializer = initializers.ones,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``(x - mean) / sqrt(var + epsilon) * scale + bias``, over the positions of a channel.

    The statistics are those of one example and one channel (Ulyanov et al., 2016,
    arXiv:1607.08022). It is ``GroupNorm`` with as many groups as there are features. The padding of
    a ``Sequence`` is left out of the statistics.

    Args:
      running_statistics: whether ``train=False`` uses running statistics of the channels instead,
        as with PyTorch's ``track_running_stats=True``. In training they move towards the means of
        the examples' statistics.
      momentum, unbiased: of the running statistics, as for ``BatchNorm``.
      epsilon: added to the (biased) variance.
      scale, bias: whether the normalised values are scaled and shifted by parameters.
      scale_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, ..., features), floating. y: of the same shape and dtype; the arithmetic is float32
      at least.
      params: scale (features,), bias (features,).
      state: with ``running_statistics``, as ``BatchNorm``.

    Raises:
      LayerError: for an input that is not one array of real floats of rank 2 or more.

    >>> import jlayers as jl
    >>> jl.serial(jl.Conv(32, 3), jl.InstanceNorm())
    serial(Conv(32, 3), InstanceNorm())
    """
    if not running_statistics:
        return norm_of_groups(None, 1, epsilon, scale, bias, scale_init, bias_init)

    def in_training(rows: Rows, state: State) -> tuple[jax.Array, Moments]:
        values, mask, own_scale, own_bias = rows
        axes = tuple(range(1, values.ndim - 1))
        if mask is None:
            y, mean, variance = core.standardize(values, own_scale, own_bias, epsilon, axes)
            if unbiased:
                variance = variance * _correction(
                    lax.full((), math.prod(values.shape[1:-1]), variance.dtype)
                )
            mean, variance = (jnp.mean(part, 0, keepdims=True) for part in (mean, variance))
            return y, Moments(mean, variance, values.shape[0])
        y, mean, variance = core.masked_normalize(values, mask, own_scale, own_bias, epsilon, axes)
        positions = math.prod(values.shape[mask.ndim : -1])
        sizes = jnp.sum(mask, tuple(range(1, mask.ndim)), dtype=variance.dtype) * positions
        valid = jnp.broadcast_to(sizes.reshape(-1, *(1,) * (values.ndim - 1)) > 0, mean.shape)
        if unbiased:
            factors = _correction(sizes).reshape(-1, *(1,) * (values.ndim - 1))
            variance = variance * jnp.broadcast_to(factors, variance.shape)
        count = jnp.sum(sizes > 0)
        # A row of nothing but padding has no statistics.
        least = jnp.maximum(count, 1).astype(variance.dtype)
        mean, variance = (
            jnp.sum(jnp.where(valid, part, jnp.zeros_like(part)), 0, keepdims=True) / least
            for part in (mean, variance)
        )
        return y, Moments(mean, variance, count)

    return over_the_batch(
        in_training,
        Running(momentum),
        (-1,),
        epsilon,
        scale_init if scale else None,
        bias_init if bias else None,
    )


def _correction(sizes: jax.Array) -> jax.Array:
    """From the biased to the unbiased variance of so many values."""
    return 1 + 1 / jnp.maximum(sizes - 1, 1)
