"""RMSNorm: each position divided by the root of its mean square, or over any axes."""

from __future__ import annotations

from jax.nn import initializers

from ...base.arguments import Axes, FeatureAxes, NonNegative
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer
from .base import norm_of_axes


@factory
def RMSNorm(
    *,
    axis: Axes = -1,
    feature_axes: FeatureAxes | None = None,
    epsilon: NonNegative = 1e-5,
    scale: bool = True,
    scale_init: Initializer = initializers.ones,
) -> Layer:
    """``x / sqrt(mean(x ** 2) + epsilon) * scale`` over the last axis, or over others.

    (Zhang & Sennrich, 2019, arXiv:1910.07467). With ``feature_axes=()`` there is one scale for all
    features: the ScaleNorm of Nguyen & Salazar (2019, arXiv:1910.05895), whose ``g`` is this scale
    times ``sqrt(features)``.

    Args:
      axis: the axis that the mean is taken over, or several.
      feature_axes: the axes of ``scale``: those of ``axis`` by default; ``()`` for one number.
      epsilon: added to the mean square.
      scale: whether the normalised values are scaled by a parameter.
      scale_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (..., features), floating. y: of the same shape and dtype; the arithmetic is float32 at
      least.
      params: scale, of the sizes of ``feature_axes`` in the order of the input's axes: (features,)
      by default.

    Raises:
      LayerError: for an input that is not one array of real floats of rank 1 or more, that lacks an
        axis, or whose ``feature_axes`` are empty; for a ``Sequence`` if steps are mixed.

    >>> import jlayers as jl
    >>> jl.serial(jl.RMSNorm(), jl.Dense(8))
    serial(RMSNorm(), Dense(8))
    """
    return norm_of_axes(
        axis, feature_axes, epsilon, scale_init if scale else None, None, centred=False
    )
