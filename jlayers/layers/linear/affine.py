"""Affine: a scale and a shift of each feature."""

from __future__ import annotations

import jax
from jax.nn import initializers

from ...base import arguments
from ...base.constructors import pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.specs import cast_like
from ...base.types import Initializer, Params
from ...core.dense import add_bias, spread_features


@factory
def Affine(
    *,
    scale: bool = True,
    bias: bool = True,
    scale_init: Initializer = initializers.ones,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``y = x * scale + bias`` over the last axis, each feature by itself.

    ``scale_init=initializers.constant(1e-4)`` without a bias is the LayerScale of deep transformers
    (Touvron et al., 2021, arXiv:2103.17239).

    Args:
      scale, bias: whether there is one. ``Affine(bias=False)`` scales alone, and
        ``Affine(scale=False)`` shifts alone.
      scale_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (..., features), floating. y: of the same shape and dtype.
      params: scale (features,), bias (features,).

    Raises:
      LayerError: with neither of the two, and for an input that is not one floating array of rank 1
        or more.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> params = {"scale": jnp.array([2.0, 3.0]), "bias": jnp.array([0.0, 1.0])}
    >>> jl.Affine().apply(params, {}, jnp.ones((1, 2)))[0].tolist()
    [[2.0, 4.0]]
    """
    if not scale and not bias:
        raise LayerError("has neither scale nor bias", hint="jl.serial() for the identity")

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, "(..., features)", least_rank=1)
        arguments.floating(x)
        arguments.has_features(x, "(..., features)")
        return initialize(
            key,
            x,
            scale=(scale_init, x.shape[-1:]) if scale else None,
            bias=(bias_init, x.shape[-1:]) if bias else None,
        )

    def apply(params: Params, x: jax.Array) -> jax.Array:
        own = cast_like(params, x)
        y = x * spread_features(own["scale"], x) if scale else x
        return add_bias(y, own["bias"]) if bias else y

    return pure(init, apply)
