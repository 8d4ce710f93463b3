"""FiLM: features scaled and shifted by a second input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.constructors import pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.specs import cast_like, format_spec
from ...base.types import Initializer, Params

_TAKES = "(x, condition)"


@factory
def FiLM(
    *,
    # Of zeros, so that the condition changes nothing at first.
    kernel_init: Initializer = initializers.zeros,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``x * (1 + scale) + shift``, both affine functions of the condition.

    (Perez et al., 2018, arXiv:1709.07871). After a norm without parameters of its own it is the
    conditional or adaptive norm: conditional ``BatchNorm``, AdaIN with ``InstanceNorm``, adaLN with
    ``LayerNorm``. It starts as the identity.

    Args:
      kernel_init, bias_init: of the map from the condition, as in ``jax.nn.initializers``.

    Shapes:
      x: a tuple of x (batch, ..., features) and condition (batch, ..., size), floating: the
      condition has the leading axes of x, some or all, and is the same along the others. y: of the
      shape and dtype of x.
      params: kernel (size, 2 features), bias (2 features,): the scale's half and then the shift's.

    Raises:
      LayerError: for an input that is not two such arrays.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> norm = jl.LayerNorm(scale=False, bias=False)
    >>> model = jl.serial(jl.parallel(norm, jl.serial()), jl.FiLM())
    >>> x, condition = jl.spec((2, 5, 4)), jl.spec((2, 3))
    >>> params, state = model.init(jax.random.key(0), (x, condition))
    >>> params["film"]["kernel"].shape
    (3, 8)
    """

    def init(key: jax.Array, x: tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]) -> Params:
        if not isinstance(x, tuple | list) or len(x) != 2:
            raise LayerError("takes two arrays", expected=_TAKES, got=format_spec(x))
        for part in x:
            arguments.one_array(part, _TAKES, least_rank=2)
            arguments.floating(part)
            arguments.has_features(part, _TAKES)
        values, condition = x
        leading = condition.shape[:-1]
        if len(leading) >= len(values.shape) or values.shape[: len(leading)] != leading:
            raise LayerError(
                "the condition must have leading axes of x",
                expected=f"[{', '.join(map(str, values.shape[:-1]))}, size], or fewer of the axes",
                got=format_spec(condition),
            )
        width = 2 * values.shape[-1]
        return initialize(
            key,
            x,
            kernel=(kernel_init, (condition.shape[-1], width)),
            bias=(bias_init, (width,)),
        )

    def apply(params: Params, x: tuple[jax.Array, jax.Array]) -> jax.Array:
        values, condition = x
        own = cast_like(params, condition)
        both = core.dense(condition, own["kernel"], own["bias"]).astype(values.dtype)
        between = (1,) * (values.ndim - condition.ndim)
        both = both.reshape(*condition.shape[:-1], *between, both.shape[-1])
        scale, shift = (jnp.broadcast_to(part, values.shape) for part in jnp.split(both, 2, -1))
        return values + values * scale + shift

    # Not fi_lm.
    return pure(init, apply, name="film")
