"""BatchNorm: each feature normalised by its statistics over the batch."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.nn import initializers

from ...base.arguments import Axes, NonNegative, UpToOne
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer, State
from .batch_base import AxisNames, Moments, Rows, batch_moments, over_the_batch
from .running import Running


@factory
def BatchNorm(
    *,
    feature_axes: Axes = -1,
    # As Flax, Equinox and Keras have it (docs/notes/0004-defaults.md).
    momentum: UpToOne | None = 0.99,
    debiased: bool = False,
    unbiased: bool = False,
    # Not Keras's 1e-3.
    epsilon: NonNegative = 1e-5,
    scale: bool = True,
    bias: bool = True,
    axis_name: AxisNames | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    scale_init: Initializer = initializers.ones,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Normalises each feature by its mean and variance over all other axes.

    ``y = (x - mean) / sqrt(var + epsilon) * scale + bias`` (Ioffe & Szegedy, 2015,
    arXiv:1502.03167). With ``train=True`` the statistics are those of the batch, and the running
    ones in the state are updated: ``running = momentum * running + (1 - momentum) * batch``, with
    the biased variance, as in Keras and Flax. With ``train=False`` the running ones are used and
    stay as they are. The statistics of a ``Sequence`` are those of its valid steps. A batch without
    rows or valid steps leaves the running ones as they are.

    Under ``jax.jit`` the statistics of a batch that is sharded over devices are those of the whole
    batch. Inside ``jax.shard_map`` and ``jax.vmap`` each part has its own, unless ``axis_name`` is
    given.

    Args:
      feature_axes: the axes whose entries have statistics and parameters of their own.
      momentum: the weight of the old running statistics at each step; PyTorch's is one less this.
        None weighs all batches alike (``momentum=None`` in PyTorch).
      debiased: whether the weights of the batches add up to 1 from the first on, so that the
        initial statistics count nothing (zero-debiasing, as in Haiku).
      unbiased: whether the running variance, not that of the batch, is divided by one less than the
        number of values, as in PyTorch.
      epsilon: added to the variance.
      scale, bias: whether the normalised values are scaled and shifted by parameters.
      axis_name: the mapped axis, or several, over which statistics are taken too in training.
      axis_index_groups: parts of that axis that have statistics of their own, as for
        ``jax.lax.psum``.
      scale_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (..., features), floating, rank 2 or more. y: of the same shape and dtype; the arithmetic
      is float32 at least.
      params: scale and bias, of the sizes of ``feature_axes``: (features,).
      state: mean and var, of the same sizes, float32 at least; with ``debiased``, or without a
      momentum, count (), int32, of batches.

    Raises:
      LayerError: for an input that is not one array of real floats of rank 2 or more, for empty
        ``feature_axes``, for a ``Sequence`` whose batch or time is one of them, and for an
        ``axis_name`` that is not mapped where the layer trains.

    >>> import jax, jlayers as jl
    >>> params, state = jl.BatchNorm().init(jax.random.key(0), jl.spec((8, 3)))
    >>> state
    {'mean': Array([0., 0., 0.], dtype=float32), 'var': Array([1., 1., 1.], dtype=float32)}
    """

    def in_training(rows: Rows, state: State) -> tuple[jax.Array, Moments]:
        return batch_moments(rows, epsilon, axis_name, axis_index_groups)

    return over_the_batch(
        in_training,
        Running(momentum, debiased, unbiased),
        feature_axes if isinstance(feature_axes, tuple) else (feature_axes,),
        epsilon,
        scale_init if scale else None,
        bias_init if bias else None,
    )
