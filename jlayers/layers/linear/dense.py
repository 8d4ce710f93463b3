"""Dense: an affine map of the last axis."""

from __future__ import annotations

import jax
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.arguments import Positive
from ...base.constructors import pure
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.specs import cast_like
from ...base.types import Initializer, Params


@factory
def Dense(
    features: Positive,
    *,
    bias: bool = True,
    # As in Keras: it suits sigmoid, tanh and relu alike (docs/notes/0004-defaults.md).
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``y = x @ kernel + bias`` over the last axis.

    Args:
      features: size of the output's last axis.
      bias: whether there is one.
      kernel_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (..., in), floating. y: (..., features), of the dtype of ``x``.
      params: kernel (in, features), bias (features,).

    Raises:
      LayerError: for an input that is not one floating array of rank 1 or more.

    >>> import jax, jlayers as jl
    >>> layer = jl.Dense(10)
    >>> params, state = layer.init(jax.random.key(0), jl.spec((32, 784)))
    >>> jax.tree.map(lambda p: p.shape, params)
    {'bias': (10,), 'kernel': (784, 10)}
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, "(..., features)", least_rank=1)
        arguments.floating(x, "x.astype(jnp.float32); Embedding for integer ids")
        arguments.has_features(x, "(..., features)")
        return initialize(
            key,
            x,
            kernel=(kernel_init, (x.shape[-1], features)),
            bias=(bias_init, (features,)) if bias else None,
        )

    def apply(params: Params, x: jax.Array) -> jax.Array:
        # Cast to the input's dtype: float32 parameters in bfloat16 arithmetic
        # (docs/notes/0003-dtypes.md).
        return core.dense(x, **cast_like(params, x))

    return pure(init, apply)
