"""ChannelShuffle: the channels of groups, one of each in turn."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...base import arguments
from ...base.arguments import Positive
from ...base.constructors import no_params, pure
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Params
from .base import check_divides


@factory
def ChannelShuffle(groups: Positive) -> Layer:
    """The first channel of each group, then the second of each, and so on.

    Between convolutions in groups it lets them see each other's channels (Zhang et al., 2018,
    arXiv:1707.01083).

    Args:
      groups: how many groups of neighbouring channels; they divide the channels.

    Shapes:
      x: (..., channels). y: of the same shape and dtype.

    Raises:
      LayerError: for a scalar, and where the groups do not divide the channels.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> jl.ChannelShuffle(2).apply({}, {}, jnp.arange(6))[0].tolist()
    [0, 3, 1, 4, 2, 5]
    """

    def apply(params: Params, x: jax.Array) -> jax.Array:
        arguments.one_array(x, "(..., channels)", least_rank=1)
        check_divides(x, (groups,), "channels of the input", x.shape[-1:])
        parts = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
        return jnp.swapaxes(parts, -1, -2).reshape(x.shape)

    return pure(no_params, apply)
