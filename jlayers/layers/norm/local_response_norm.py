"""LocalResponseNorm: each channel divided by the squares of its neighbours."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...base import arguments
from ...base.arguments import NonNegative, Positive
from ...base.constructors import no_params, pure
from ...base.factory import factory
from ...base.layer import Layer
from ...base.types import Params
from ...core.dtypes import at_least_float32


@factory
def LocalResponseNorm(
    size: Positive,
    *,
    alpha: NonNegative = 1e-4,
    beta: NonNegative = 0.75,
    k: NonNegative = 1.0,
) -> Layer:
    """``x / (k + alpha / size * sum(x ** 2)) ** beta``, summed over ``size`` channels near by.

    ``size // 2`` of them come before the channel (Krizhevsky et al., 2012, section 3.3). The
    defaults, and the division of ``alpha`` by ``size``, are PyTorch's.

    Args:
      size: how many channels are summed; those beyond the edges count as zero.
      alpha, beta, k: as above.

    Shapes:
      x: (..., channels), floating. y: of the same shape and dtype; the arithmetic is float32 at
      least.

    Raises:
      LayerError: for an input that is not one array of real floats of rank 1 or more.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> norm = jl.LocalResponseNorm(1, alpha=3.0, beta=0.5)
    >>> norm.apply({}, {}, jnp.ones((1, 2)))[0].tolist()
    [[0.5, 0.5]]
    """

    def apply(params: Params, x: jax.Array) -> jax.Array:
        arguments.one_array(x, "(..., channels)", least_rank=1)
        arguments.floating(x)
        arguments.real(x)
        wide, channels = x.astype(at_least_float32(x.dtype)), x.shape[-1]
        edges = [(0, 0)] * (x.ndim - 1) + [(size // 2, (size - 1) // 2)]
        squares = jnp.pad(jnp.square(wide), edges)
        total = sum(squares[..., i : i + channels] for i in range(1, size))
        total = total + squares[..., :channels]
        # As in the other norms: 0 would pass for a value.
        total = jnp.where(total == jnp.inf, jnp.nan, total)
        return (wide / (k + alpha / size * total) ** beta).astype(x.dtype)

    return pure(no_params, apply)
