"""Convolutions of arrays that are split over devices: by rows and by output features alone.

XLA's partitioner (jaxlib 0.10.2 and 0.12) computes wrong gradients, without an error, where the
axes of an image are split, and the gradient of a kernel in groups where the rows are split over one
of several axes of a mesh (docs/notes/0022-many-devices.md). So images are whole along their axes,
and kernels in groups have a gradient of their own, by products alone.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from ..custom_gradient import BilinearRule, BinaryOp, bilinear_op
from ..dtypes import has_sharded_type
from .geometry import Geometry, slices

_FREE = PartitionSpec.UNCONSTRAINED
# Of a kernel: a program of more products than this takes long to compile.
_MOST_ELEMENTS = 64


def on_mesh(value: BinaryOp, by_element: BinaryOp, groups: int) -> BinaryOp:
    """A convolution, with its operands and its gradients where XLA computes them rightly.

    Args:
      value: ``value(x, kernel)``, by XLA's own convolution.
      by_element: the same as a sum of products, one for each element of the kernel.
      groups: of channels.
    """

    def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
        features = _FREE if groups == 1 else None
        x = _split(x, _FREE, None)
        kernel = _split(kernel, None, features)
        if groups == 1:
            return _split(value(x, kernel), _FREE, features)
        few = math.prod(kernel.shape[:-2]) <= _MOST_ELEMENTS

        def everywhere(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return _split(value(_split(x, None, None), kernel), None, None)

        rule = BilinearRule(value, for_rhs=by_element if few else everywhere)
        return _split(bilinear_op(rule)(x, kernel), _FREE, features)

    return convolution


def by_element(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """A convolution as a sum over the elements of the kernel, each a product in every group."""
    groups, inputs, outputs = geometry.groups, *kernel.shape[-2:]
    total = None
    for offset, pixels in slices(x, kernel, geometry):
        # Channels are those of the first group, then of the second, on both sides.
        apart = pixels.reshape(*pixels.shape[:-1], groups, inputs)
        weights = kernel[offset].reshape(inputs, groups, outputs // groups)
        term = jnp.einsum("...gi,igo->...go", apart, weights)
        total = term if total is None else total + term
    assert total is not None
    return total.reshape(*total.shape[:-2], outputs)


def with_gaps(x: jax.Array, strides: tuple[int, ...]) -> jax.Array:
    """The image with ``strides - 1`` zeros between its pixels, which a transposed kernel meets."""
    gaps = [(0, 0, 0), *((0, 0, stride - 1) for stride in strides), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), gaps)


def _split(x: jax.Array, first: object, last: object) -> jax.Array:
    """The array split along its first and its last axis at most."""
    spec = PartitionSpec(first, *(None,) * (x.ndim - 2), last)
    if has_sharded_type(x):
        own = (*jax.typeof(x).sharding.spec, *(None,) * x.ndim)[: x.ndim]
        wanted = (
            own[0] if first is _FREE else None,
            *spec[1:-1],
            own[-1] if last is _FREE else None,
        )
        return x if own == wanted else jax.sharding.reshard(x, PartitionSpec(*wanted))
    around = jax.sharding.get_abstract_mesh()
    if around.empty or AxisType.Auto not in around.axis_types:
        return x
    placed: jax.Array = lax.with_sharding_constraint(x, spec)
    return placed
