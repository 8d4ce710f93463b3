"""Affine maps of the last axis."""

from __future__ import annotations

import jax
from jax import lax

from .custom_gradient import bilinear, product
from .dtypes import at_least_float32
from .sharding import is_spread


def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """``x @ kernel + bias`` over the last axis of ``x``.

    Args:
      x: (..., in).
      kernel: (in, out), of the dtype of ``x``.
      bias: (out,), or None.

    Returns:
      (..., out), of the dtype of ``x``.
    """
    if x.ndim == 2 or is_spread(x):
        return affine(x, kernel, bias)
    y = _rows_product(x, kernel)
    return y if bias is None else add_bias(y, bias)


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """``dense`` with the gradient that JAX makes of it."""
    y = matrix_product(x, kernel)
    return y if bias is None else add_bias(y, bias)


def matrix_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``x @ kernel`` over the last axis of ``x``, as one product."""
    y: jax.Array = lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
    return y


def outer_product(x: jax.Array, ct: jax.Array, kernel: jax.Array) -> jax.Array:
    """The gradient of ``kernel`` in ``x @ kernel``: a sum over all axes but the last.

    Returns:
      An array like ``kernel``, of float32 at least.
    """
    dtype = at_least_float32(x.dtype)

    def general(x: jax.Array, ct: jax.Array) -> jax.Array:
        axes = tuple(range(x.ndim - 1))
        return lax.dot_general(
            x,
            ct,
            ((axes, axes), ((), ())),
            preferred_element_type=dtype,
            out_sharding=jax.typeof(kernel).sharding,
        )

    def flat(x: jax.Array, ct: jax.Array) -> jax.Array:
        return general(x.reshape(-1, x.shape[-1]), ct.reshape(-1, ct.shape[-1]))

    if is_spread(x):
        return general(x, ct)
    # XLA for CPU copies both to transpose them, unless there is one axis to sum over.
    result: jax.Array = lax.platform_dependent(x, ct, cpu=flat, default=general)
    return result


_rows_product = product(
    bilinear(matrix_product)._replace(
        right=lambda x, kernel, ct: outer_product(x, ct, kernel).astype(kernel.dtype)
    )
)


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """``y + bias`` with (features,) on the last axis; explicit, for strict rank promotion.

    The gradient of the bias, a sum over all other axes, is taken in float32 at least: in bfloat16
    it was off by a tenth at 25,000 terms.
    """
    wide = bias.astype(at_least_float32(bias.dtype))
    return y + lax.broadcast_in_dim(wide, y.shape, (y.ndim - 1,)).astype(y.dtype)
