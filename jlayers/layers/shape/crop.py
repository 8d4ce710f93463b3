"""Crop: fewer pixels at the edges of an image."""

from __future__ import annotations

import jax
from jax import lax

from ...base import arguments
from ...base.arguments import EdgeSizes
from ...base.constructors import no_params, pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence_mode import SequenceMode
from ...base.specs import format_spec
from ...base.types import Params


@factory
def Crop(cropping: EdgeSizes) -> Layer:
    """The image without ``cropping`` pixels at the edges of its spatial axes.

    Args:
      cropping: an int for all edges, or one (low, high) or int for each spatial axis.

    Shapes:
      x: (batch, *spatial, channels). y: (batch, *spatial', channels), of the dtype of ``x``.

    Raises:
      LayerError: for an input of another rank, and where more is cropped than there is. A
        ``Sequence`` is refused where its first spatial axis, time, is cropped.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.arange(5).reshape(1, 5, 1)
    >>> jl.Crop([(1, 2)]).apply({}, {}, x)[0].ravel().tolist()
    [1, 2]
    """

    def apply(params: Params, x: jax.Array) -> jax.Array:
        for axis, (low, high) in enumerate(arguments.edges_of(x, cropping), 1):
            size = x.shape[axis]
            if isinstance(size, int) and low + high > size:
                raise LayerError(
                    f"cropping {(low, high)} is larger than an axis of size {size}",
                    got=format_spec(x),
                )
            x = lax.slice_in_dim(x, low, size - high, axis=axis)
        return x

    return pure(no_params, apply, sequence_mode=SequenceMode.UNKNOWN)
