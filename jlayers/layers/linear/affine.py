"""Affine: a scale and a shift of each feature."""

from __future__ import annotations

import jax
from jax.nn import initializers

from ...base import arguments
from ...base.arguments import FeatureAxes
from ...base.constructors import pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.specs import cast_like
from ...base.types import Initializer, Params
from .own_axes import OwnAxes


@factory
def Affine(
    *,
    feature_axes: FeatureAxes = -1,
    scale: bool = True,
    bias: bool = True,
    scale_init: Initializer = initializers.ones,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``y = x * scale + bias``, each feature of the last axis by itself, or of others.

    ``scale_init=initializers.constant(1e-4)`` without a bias is the LayerScale of deep transformers
    (Touvron et al., 2021, arXiv:2103.17239).

    Args:
      feature_axes: the axes whose entries have parameters of their own, several as a tuple; ``()``
        for one scale and one bias.
      scale, bias: whether there is one. ``Affine(bias=False)`` scales alone, and
        ``Affine(scale=False)`` shifts alone.
      scale_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (..., features), floating. y: of the same shape and dtype.
      params: scale and bias, of the sizes of ``feature_axes`` in the order of the input's axes:
      (features,).

    Raises:
      LayerError: with neither of the two, for an input that is not one floating array, or lacks an
        axis of ``feature_axes``, and for a ``Sequence`` if the batch or time is one of them.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> params = {"scale": jnp.array([2.0, 3.0]), "bias": jnp.array([0.0, 1.0])}
    >>> jl.Affine().apply(params, {}, jnp.ones((1, 2)))[0].tolist()
    [[2.0, 4.0]]
    """
    axes = OwnAxes.of(feature_axes)
    if not scale and not bias:
        raise LayerError("has neither scale nor bias", hint="jl.serial() for the identity")

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, "(..., features)")
        arguments.floating(x)
        sizes = axes.sizes(x)
        return initialize(
            key,
            x,
            scale=(scale_init, sizes) if scale else None,
            bias=(bias_init, sizes) if bias else None,
        )

    def apply(params: Params, x: jax.Array) -> jax.Array:
        own = cast_like(params, x)
        y = x * axes.spread(own["scale"], x) if scale else x
        return y + axes.spread(own["bias"], y) if bias else y

    return pure(init, apply, sequence_mode=axes.sequence_mode)
