"""BatchRenorm: batch norm whose training sees what the running statistics would give."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers

from ...base.arguments import AboveZero, Axes, NonNegative, UpToOne
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, State
from ...core.dtypes import at_least_float32
from .batch_base import AxisNames, Moments, Rows, batch_moments, over_the_batch
from .running import Running


@factory
def BatchRenorm(
    *,
    feature_axes: Axes = -1,
    momentum: UpToOne = 0.99,
    min_scale: NonNegative | None = None,
    max_scale: AboveZero | None = 3.0,
    max_shift: NonNegative | None = 5.0,
    epsilon: NonNegative = 1e-5,
    scale: bool = True,
    bias: bool = True,
    axis_name: AxisNames | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    scale_init: Initializer = initializers.ones,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``BatchNorm`` for batches that are small, or not alike (Ioffe, 2017, arXiv:1702.03275).

    In training the values that are normalised by the batch are brought near to those that the
    running statistics would give: ``(x_hat * r + d) * scale + bias``, with ``r = deviation of the
    batch / running deviation`` and ``d = (mean of the batch - running mean) / running deviation``,
    clipped, and without gradient. A deviation is ``sqrt(var + epsilon)``; of it, and not of the
    variance, the running value is kept, as in the paper and in Keras (``renorm=True``, with one
    momentum for all). With ``train=False`` it is ``BatchNorm``.

    Args:
      min_scale, max_scale: the range of ``r``; its lower end is ``1 / max_scale`` by default, as in
        the paper. None for no end.
      max_shift: the largest size of ``d``; None for any. The defaults are those that the paper ends
        with, after some thousand steps as batch norm (``max_scale=1.0, max_shift=0.0``).
      momentum, feature_axes, epsilon, scale, bias: as for ``BatchNorm``.
      axis_name, axis_index_groups, scale_init, bias_init: likewise.

    Shapes:
      x: (..., features), floating, rank 2 or more. y: of the same shape and dtype; the arithmetic
      is float32 at least.
      params: scale and bias, of the sizes of ``feature_axes``: (features,).
      state: mean and var, of the same sizes, float32 at least.

    Raises:
      LayerError: as ``BatchNorm``, and for a ``max_scale`` below the lower end.

    >>> import jlayers as jl
    >>> jl.serial(jl.Conv(32, 3, bias=False), jl.BatchRenorm(max_scale=2.0))
    serial(Conv(32, 3, bias=False), BatchRenorm(max_scale=2.0))
    """
    if max_scale is not None and max_scale < (1 / max_scale if min_scale is None else min_scale):
        raise LayerError(
            "max_scale is below the lower end of r",
            got=f"min_scale {min_scale}, max_scale {max_scale}",
            hint="max_scale of at least 1, or a smaller min_scale",
        )
    lowest = 1 / max_scale if min_scale is None and max_scale is not None else min_scale

    def in_training(rows: Rows, state: State) -> tuple[jax.Array, Moments]:
        wide = at_least_float32(rows.values.dtype)
        # Rounded once, after r and d.
        plain = rows._replace(values=rows.values.astype(wide), scale=None, bias=None)
        y, moments = batch_moments(plain, epsilon, axis_name, axis_index_groups)

        def row(values: jax.Array) -> jax.Array:
            return values.reshape(moments.mean.shape).astype(wide)

        deviation = jnp.sqrt(moments.variance + epsilon)
        running = jnp.sqrt(row(state["var"]) + epsilon)
        r = jnp.clip(deviation / running, lowest, max_scale)
        d = (moments.mean - row(state["mean"])) / running
        d = d if max_shift is None else jnp.clip(d, -max_shift, max_shift)
        r, d = lax.stop_gradient((r, d))
        factor = r if rows.scale is None else r * row(rows.scale)
        shift = d if rows.scale is None else d * row(rows.scale)
        shift = shift if rows.bias is None else shift + row(rows.bias)
        y = y * jnp.broadcast_to(factor, y.shape) + jnp.broadcast_to(shift, y.shape)
        return y.astype(rows.values.dtype), moments

    return over_the_batch(
        in_training,
        Running(momentum, epsilon_of_roots=epsilon),
        feature_axes if isinstance(feature_axes, tuple) else (feature_axes,),
        epsilon,
        scale_init if scale else None,
        bias_init if bias else None,
    )
