"""InstanceNorm: each channel of each example normalised over its positions."""

from __future__ import annotations

from jax.nn import initializers

from ...base.arguments import NonNegative
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer
from .base import norm_of_groups


@factory
def InstanceNorm(
    *,
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
      epsilon: added to the (biased) variance.
      scale, bias: whether the normalised values are scaled and shifted by parameters.
      scale_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, ..., features), floating. y: of the same shape and dtype; the arithmetic is float32
      at least.
      params: scale (features,), bias (features,).

    Raises:
      LayerError: for an input that is not one array of real floats of rank 2 or more.

    >>> import jlayers as jl
    >>> jl.serial(jl.Conv(32, 3), jl.InstanceNorm())
    serial(Conv(32, 3), InstanceNorm())
    """
    return norm_of_groups(None, epsilon, scale, bias, scale_init, bias_init)
