"""Normalisation of each position over its own features: layer norm and RMS norm are this."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from .custom_gradient import with_custom_gradient
from .dispatch import traced_once
from .dtypes import at_least_float32
from .norm import centre, divided, for_uses, inverse_root, moments, scalar, spread


@traced_once("epsilon", "centred")
def position_norm(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    epsilon: float,
    centred: bool = True,
) -> jax.Array:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias`` over the last axis.

    With ``x_hat`` the normalised values and ``r`` the inverse root, the gradient of the input is::

        dx = (scale * dy - mean(scale * dy) - x_hat * mean(scale * dy * x_hat)) * r

    Args:
      x: (..., features).
      scale, bias: (features,), or None.
      epsilon: keeps the root from zero.
      centred: whether the mean is subtracted (layer norm); without, the variance is the mean square
        (RMS norm).

    Returns:
      An array like ``x``. The arithmetic is float32 at least.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> jl.core.position_norm(jnp.array([[1.0, 3.0]]), None, None, 0.0).tolist()
    [[-1.0, 1.0]]
    """
    wide, last, features = at_least_float32(x.dtype), x.ndim - 1, x.shape[-1]
    scale = jnp.ones_like(x, shape=(features,)) if scale is None else scale
    bias = jnp.zeros_like(x, shape=(features,)) if bias is None else bias

    def row(values: jax.Array) -> jax.Array:
        return lax.broadcast_in_dim(values.astype(wide), x.shape, (last,))

    def sums_of(values: jax.Array) -> jax.Array:
        return lax.reduce_sum(values, (last,))

    def means_of(sums: jax.Array) -> jax.Array:
        return divided(sums, features)

    def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
        # A sum as a product with the weights: XLA for CPU would first store what it sums. Exact on
        # accelerators too, whose products are narrower unless they are told.
        sums = lax.dot_general(
            values, weights, (((last,), (0,)), ((), ())), precision=lax.Precision.HIGHEST
        )
        return means_of(sums)

    def normalized(x: jax.Array, mean: jax.Array | None, inverse: jax.Array) -> jax.Array:
        centred_x = x.astype(wide) if mean is None else centre(x, mean)
        return lax.mul(centred_x, spread(inverse, x.shape))

    def forward(
        x: jax.Array, scale: jax.Array, bias: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array | None, jax.Array]]:
        if centred:
            mean, _, inverse = moments(x, sums_of, means_of, epsilon)
        else:
            (values,) = for_uses(x, 1)
            squares = sums_of(lax.square(values.astype(wide)))
            mean, inverse = None, inverse_root(lax.add(means_of(squares), scalar(epsilon, squares)))
        y = lax.add(lax.mul(normalized(x, mean, inverse), row(scale)), row(bias))
        return y.astype(x.dtype), (mean, inverse)

    def backward(
        args: tuple[jax.Array, ...], residuals: tuple[jax.Array | None, jax.Array], dy: jax.Array
    ) -> tuple[jax.Array, ...]:
        (x, scale, bias), (mean, inverse) = args, residuals
        dy, weights, leading = dy.astype(wide), scale.astype(wide), tuple(range(last))
        x_hat = normalized(x, mean, inverse)
        products = lax.mul(dy, x_hat)
        slope = weighted_mean(products, weights)
        dx = lax.sub(lax.mul(dy, row(scale)), lax.mul(x_hat, spread(slope, x.shape)))
        if centred:
            dx = lax.sub(dx, spread(weighted_mean(dy, weights), x.shape))
        # Last a product of two full arrays, no broadcast: of a sum of gradients that ends with a
        # broadcast XLA computes the whole chain again for each of its users, block after block.
        dx = lax.mul(dx, spread(inverse, x.shape))
        dscale, dbias = lax.reduce_sum(products, leading), lax.reduce_sum(dy, leading)
        return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(bias.dtype)

    return with_custom_gradient(forward, backward)(x, scale, bias)
