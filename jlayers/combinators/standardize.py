"""Weight standardisation: kernels with a mean of 0 and a variance of 1 for each output."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from ..base.arguments import AboveZero
from ..base.constructors import LayerOrFunction, lift
from ..base.factory import factory
from ..base.layer import Layer
from ..base.patterns import Patterns, each_pattern
from ..core.dtypes import at_least_float32
from ..core.weights import Weight, array_of, lazy, static
from .transparent import with_lazy_weights


@factory
def standardize_weights(
    layer: LayerOrFunction, pattern: Patterns = "**/*kernel", *, epsilon: AboveZero = 1e-5
) -> Layer:
    """The layer with kernels of mean 0 and variance 1 for each output, whatever its parameters are.

    ``kernel' = (kernel - mean) / sqrt(var + epsilon)``, with the mean and the variance over all
    axes but the last (Qiao et al., 2019, arXiv:1903.10520), in every call: the parameters are the
    layer's own, and their gradients pass through it.

    Args:
      layer: a convolution, or any model with some in it.
      pattern: paths of parameters, one or a tuple, by default of all kernels.
      epsilon: what is added to the variance.

    Raises:
      LayerError: for a pattern that fits no parameter, and for one of fewer than two axes.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> layer = jl.standardize_weights(jl.Conv(8, 3))
    >>> params, state = layer.init(jax.random.key(0), jl.spec((1, 3, 3, 4)))
    >>> y, _ = layer.apply(params, state, jnp.ones((1, 3, 3, 4)))
    >>> bool(jnp.all(jnp.abs(y) < 1e-4))
    True
    """
    return with_lazy_weights(
        lift(layer),
        each_pattern(pattern),
        lambda new: standardize_weights(new, pattern, epsilon=epsilon),
        lambda kernel: Standardized(kernel, epsilon),
    )


@lazy
class Standardized(Weight):
    """``(kernel - mean) / sqrt(var + epsilon)``."""

    epsilon: float = static()

    def made(self) -> jax.Array:
        return _standardized(array_of(self.kernel), self.epsilon)


def _standardized(kernel: jax.Array, epsilon: float) -> jax.Array:
    wide = kernel.astype(at_least_float32(kernel.dtype))
    axes = tuple(range(kernel.ndim - 1))
    centred = wide - jnp.mean(wide, axes, keepdims=True)
    var = jnp.mean(jnp.square(centred), axes, keepdims=True)
    return (centred * lax.rsqrt(var + epsilon)).astype(kernel.dtype)
