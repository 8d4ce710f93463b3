"""Bilinear: a form of two inputs for each output feature."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ...base import arguments
from ...base.arguments import Positive
from ...base.constructors import pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.specs import cast_like, format_spec
from ...base.types import Initializer, Params
from ...core.dense import add_bias

Spec = jax.ShapeDtypeStruct


@factory
def Bilinear(
    features: Positive,
    *,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(in_axis=(0, 1), out_axis=2),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``y[k] = sum_ij a[i] kernel[i, j, k] b[j] + bias[k]`` over the last axes of a pair.

    Args:
      features: size of the output's last axis.
      bias: whether there is one.
      kernel_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: a pair, a (..., in_a) and b (..., in_b), floating, of one dtype and with the same leading
      axes. y: (..., features), of their dtype.
      params: kernel (in_a, in_b, features), bias (features,).

    Raises:
      LayerError: for an input that is not such a pair.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.Bilinear(5), (jl.spec((8, 3)), jl.spec((8, 4)))).shape
    (8, 5)
    """

    def init(key: jax.Array, x: tuple[Spec, Spec]) -> Params:
        if not isinstance(x, tuple | list) or len(x) != 2:
            raise LayerError("takes a pair", expected="(a, b)", got=format_spec(x))
        for one in x:
            arguments.one_array(one, "(..., features)", least_rank=1)
            arguments.floating(one)
            arguments.has_features(one, "(..., features)")
        a, b = x
        # No promotion: one of the two would decide the dtype of the output unasked.
        if a.shape[:-1] != b.shape[:-1] or a.dtype != b.dtype:
            raise LayerError(
                "the two inputs differ in their leading axes or their dtype",
                got=f"{format_spec(a)} and {format_spec(b)}",
            )
        return initialize(
            key,
            a,
            kernel=(kernel_init, (a.shape[-1], b.shape[-1], features)),
            bias=(bias_init, (features,)) if bias else None,
        )

    def apply(params: Params, x: tuple[jax.Array, jax.Array]) -> jax.Array:
        a, b = x
        own = cast_like(params, a)
        # First a, which leaves (..., in_b, features): einsum chooses, by the sizes.
        y = jnp.einsum("...i,ijk,...j->...k", a, own["kernel"], b)
        return add_bias(y, own["bias"]) if bias else y

    return pure(init, apply)
