"""Affine maps of the last axis."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax import lax

from .custom_gradient import BilinearRule, bilinear_op
from .dispatch import traced_once
from .dtypes import at_least_float32, is_sharded
from .weights import Weight


def dense(x: jax.Array, kernel: jax.Array | Weight, bias: jax.Array | None = None) -> jax.Array:
    """``x @ kernel + bias`` over the last axis of ``x``.

    Args:
      x: (..., in).
      kernel: (in, out), of the dtype of ``x``; or a lazy weight, which has a product of its own.
      bias: (out,), or None.

    Returns:
      (..., out), of the dtype of ``x``.

    Raises:
      TypeError: from JAX, for another dtype or size of ``kernel``.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> jl.core.dense(x, jnp.eye(2), jnp.array([10.0, 20.0])).tolist()
    [[[11.0, 22.0], [13.0, 24.0]]]
    """
    if isinstance(kernel, Weight):
        y = kernel.product(x, dense)
        return y if bias is None else add_bias(y, bias)
    # Two axes need no flattening, and the gradient that JAX derives is already the fast one.
    if x.ndim == 2 or is_sharded(x):
        return affine(x, kernel, bias)
    y = _flattened_matmul(x, kernel)
    return y if bias is None else add_bias(y, bias)


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """``dense`` with the gradient that JAX derives."""
    y = matrix_product(x, kernel)
    return y if bias is None else add_bias(y, bias)


def matrix_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``x @ kernel`` over the last axis of ``x`` and the first of ``kernel``, as one product."""
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def kernel_gradient(x: jax.Array, ct: jax.Array, kernel: jax.Array) -> jax.Array:
    """The gradient of ``kernel`` in ``x @ kernel``: ``x' ct``, summed over all axes but the last.

    Args:
      x: (..., in).
      ct: (..., out), the cotangent of the product.
      kernel: (in, out); only its shape and sharding are used.

    Returns:
      (in, out), of float32 at least.
    """

    def contract(x: jax.Array, ct: jax.Array) -> jax.Array:
        axes = tuple(range(x.ndim - 1))
        return lax.dot_general(
            x,
            ct,
            ((axes, axes), ((), ())),
            preferred_element_type=at_least_float32(x.dtype),
            out_sharding=jax.typeof(kernel).sharding,
        )

    def contract_flat(x: jax.Array, ct: jax.Array) -> jax.Array:
        return contract(x.reshape(-1, x.shape[-1]), ct.reshape(-1, ct.shape[-1]))

    if is_sharded(x):
        return contract(x, ct)
    # XLA for CPU copies both operands to transpose them, unless it sums over a single axis: 28 ms
    # became 20 for (8, 512, 256) to 1,024 (docs/notes/0009-compiled-cores.md). On accelerators the
    # merged axes only get in the way of partitioning over devices.
    result: jax.Array = lax.platform_dependent(x, ct, cpu=contract_flat, default=contract)
    return result


def _flat_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    rows = x.reshape(-1, x.shape[-1])
    return matrix_product(rows, kernel).reshape(*x.shape[:-1], kernel.shape[1])


# The gradient of the kernel on CPU is that of the flattened product: see `kernel_gradient`.
_product_of_steps = bilinear_op(BilinearRule(matrix_product, for_rhs=_flat_product), matrix_product)


@traced_once()
def _flattened_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _product_of_steps(x, kernel)


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """``y + bias`` with the bias on the last axes; explicit, for strict rank promotion."""
    return y + spread_features(bias, y)


def spread_features(
    values: jax.Array, x: jax.Array, axes: Sequence[int] | None = None
) -> jax.Array:
    """``values`` in the shape and the dtype of ``x``.

    Their axes are the last of ``x``, or ``axes``, which are sorted.

    Their gradient, a sum over all other axes, is taken in float32 at least: in bfloat16 it was off
    by a tenth at 25,000 terms.
    """
    wide = values.astype(at_least_float32(values.dtype))
    if axes is None:
        axes = range(x.ndim - values.ndim, x.ndim)
    return lax.broadcast_in_dim(wide, x.shape, axes).astype(x.dtype)
