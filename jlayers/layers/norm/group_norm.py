"""GroupNorm: each example normalised over its positions and a group of its features."""

from __future__ import annotations

from jax.nn import initializers

from ...base.arguments import NonNegative, Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer
from .base import norm_of_groups


@factory
def GroupNorm(
    groups: Positive | None = None,
    *,
    group_size: Positive | None = None,
    epsilon: NonNegative = 1e-5,
    scale: bool = True,
    bias: bool = True,
    scale_init: Initializer = initializers.ones,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``(x - mean) / sqrt(var + epsilon) * scale + bias``, over all axes but the batch.

    The statistics are those of one example and of one group of neighbouring features (Wu & He,
    2018, arXiv:1803.08494). One group is a layer norm over the whole example; as many as there are
    features is the instance norm. The padding of a ``Sequence`` is left out of the
    statistics.

    Args:
      groups: how many; they divide the features. As many as there are features are
        ``InstanceNorm`` (``groups=-1`` in Keras).
      group_size: instead of ``groups``, how many features each has.
      epsilon: added to the (biased) variance.
      scale, bias: whether the normalised values are scaled and shifted by parameters.
      scale_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, ..., features), floating. y: of the same shape and dtype; the arithmetic is float32
      at least.
      params: scale (features,), bias (features,).

    Raises:
      LayerError: for features that the groups do not divide, and for both arguments, or neither.

    >>> import jlayers as jl
    >>> jl.serial(jl.Conv(32, 3), jl.GroupNorm(8))
    serial(Conv(32, 3), GroupNorm(8))
    """
    if (groups is None) == (group_size is None):
        raise LayerError(
            "takes groups or group_size", got=f"groups {groups}, group_size {group_size}"
        )
    return norm_of_groups(groups, group_size, epsilon, scale, bias, scale_init, bias_init)
