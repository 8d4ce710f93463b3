"""LayerNorm: each position normalised over its own features, or over any axes."""

from __future__ import annotations

from jax.nn import initializers

from ...base.arguments import Axes, FeatureAxes, NonNegative
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Initializer
from .base import norm_of_axes


@factory
def LayerNorm(
    *,
    axis: Axes = -1,
    feature_axes: FeatureAxes | None = None,
    # As PyTorch, Haiku and Equinox have it (docs/notes/0004-defaults.md).
    epsilon: NonNegative = 1e-5,
    scale: bool = True,
    bias: bool = True,
    scale_init: Initializer = initializers.ones,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``(x - mean) / sqrt(var + epsilon) * scale + bias`` over the last axis, or over others.

    (Ba et al., 2016, arXiv:1607.06450)

    Args:
      axis: the axis that the statistics are taken over, or several: PyTorch's ``normalized_shape``
        of three sizes is ``axis=(-3, -2, -1)``.
      feature_axes: the axes of ``scale`` and ``bias``: those of ``axis`` by default, as in PyTorch
        and Keras. ``LayerNorm(axis=(1, 2, 3), feature_axes=-1)`` normalises each image as a whole
        and scales each channel; ``()`` has one scale and one bias for all.
      epsilon: added to the (biased) variance.
      scale, bias: whether the normalised values are scaled and shifted by parameters.
      scale_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (..., features), floating. y: of the same shape and dtype; the arithmetic is float32 at
      least.
      params: scale and bias, of the sizes of ``feature_axes`` in the order of the input's axes:
      (features,) by default.

    Raises:
      LayerError: for an input that is not one array of real floats of rank 1 or more, that lacks an
        axis, or whose ``feature_axes`` are empty; for a ``Sequence`` if steps are mixed.

    >>> import jax, jlayers as jl
    >>> jl.serial(jl.LayerNorm(), jl.Dense(8))
    serial(LayerNorm(), Dense(8))
    >>> params, _ = jl.LayerNorm(axis=(-2, -1)).init(jax.random.key(0), jl.spec((8, 5, 3)))
    >>> params["scale"].shape
    (5, 3)
    """
    return norm_of_axes(
        axis,
        feature_axes,
        epsilon,
        scale_init if scale else None,
        bias_init if bias else None,
        centred=True,
    )
