"""LocalConv: a convolution with a kernel of its own for each pixel of the output."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers

from ...base import arguments
from ...base.arguments import ConvPadding, Positive, Sizes
from ...base.constructors import pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.sequence import Sequence, Steps
from ...base.sequence_mode import SequenceMode
from ...base.specs import cast_like, format_spec
from ...base.types import Initializer, Params
from ...core.conv.geometry import Geometry, output_sizes, slice_at
from ...core.dtypes import at_least_float32
from ...core.padding import amounts_of, apart, extend, modes_of
from ...core.windows import pad_or_crop
from .base import IMAGE, NO_CHANNELS, Image, spread_padding, window_fits

_PLACED = "each place has weights of its own"


@factory
def LocalConv(
    features: Positive,
    kernel_size: Sizes,
    *,
    strides: Sizes = 1,
    padding: ConvPadding = "VALID",
    dilation: Sizes = 1,
    bias: bool = True,
    kernel_init: Initializer | None = None,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """A convolution whose kernel is not shared between pixels: locally connected, or unshared.

    ``y[p] = sum_k x[strides * p + dilation * k] @ kernel[p, k] + bias[p]`` (LeCun, 1989,
    "Generalization and network design strategies"). The parameters fix the size of the image.

    Args:
      features: channels of the output.
      kernel_size, strides, dilation: an int for all spatial axes, or one for each.
      padding: as for ``Conv``.
      bias: whether there is one, for each pixel.
      kernel_init: as in ``jax.nn.initializers``; by default ``glorot_uniform`` for the kernel of
        one pixel.
      bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (batch, *spatial, in), floating. y: (batch, *spatial', features), of the dtype of ``x``.
      params: kernel (*spatial', *kernel_size, in, features), bias (*spatial', features).

    Raises:
      LayerError: for an input of another rank, and a kernel larger than the padded input. A
        ``Sequence`` is refused: each step has weights of its own.

    >>> import jax, jlayers as jl
    >>> layer = jl.LocalConv(8, 3, padding="SAME")
    >>> params, _ = layer.init(jax.random.key(0), jl.spec((2, 6, 5, 4)))
    >>> params["kernel"].shape, params["bias"].shape
    ((6, 5, 3, 3, 4, 8), (6, 5, 8))
    """

    def placed(x: Image) -> _Place:
        rank = len(kernel_size) + 2 if isinstance(kernel_size, tuple) else None
        arguments.one_array(x, IMAGE, rank=rank, least_rank=3, lower=NO_CHANNELS)
        rank = len(x.shape) - 2
        size, steps = (
            arguments.spread("kernel_size", kernel_size, rank),
            arguments.spread("dilation", dilation, rank),
        )
        moves, own = arguments.spread("strides", strides, rank), spread_padding(padding, rank)
        extents = tuple(d * (k - 1) + 1 for k, d in zip(size, steps, strict=True))
        window_fits(x, x.shape[1:-1], extents, own, "the dilated kernel")
        pads = amounts_of(x.shape[1:-1], extents, moves, own)
        geometry = Geometry(moves, pads, steps)
        sizes = output_sizes(x.shape[1:-1], size, geometry)
        return _Place(size, geometry, sizes, modes_of(own, rank))

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        place = placed(x)
        arguments.floating(x)
        arguments.not_empty(x, IMAGE)
        kernel = (*place.out_shape, *place.kernel_size, x.shape[-1], features)
        return initialize(
            key,
            x,
            kernel=(kernel_init or _glorot(len(place.out_shape)), kernel),
            bias=(bias_init, (*place.out_shape, features)) if bias else None,
        )

    def apply(params: Params, x: Steps) -> jax.Array:
        if isinstance(x, Sequence):
            raise LayerError(
                f"takes no mask: {_PLACED}", got=format_spec(x), hint="Conv, whose kernel is shared"
            )
        own, (size, geometry, out_shape, modes) = cast_like(params, x), placed(x)
        around, zeros = apart(geometry.padding, modes)
        x = pad_or_crop(extend(x, around, modes), zeros)
        offsets = itertools.product(*map(range, size))
        # Of each pixel of the output what its kernel meets, as one row.
        rows = jnp.concatenate([slice_at(x, at, out_shape, geometry) for at in offsets], -1)
        kernel = own["kernel"].reshape(*out_shape, rows.shape[-1], features)
        rank = len(out_shape)
        pixels = tuple(range(1, rank + 1)), tuple(range(rank))
        y = lax.dot_general(rows, kernel, (((rank + 1,), (rank,)), pixels))
        y = jnp.moveaxis(y, rank, 0)
        if not bias:
            return y
        # As in a dense layer: the gradient of the bias is summed in float32 at least.
        wide = own["bias"].astype(at_least_float32(y.dtype))
        return y + jnp.broadcast_to(wide, y.shape).astype(y.dtype)

    return pure(init, apply, sequence_mode=SequenceMode("whole"), stream=_PLACED)


class _Place(NamedTuple):
    kernel_size: tuple[int, ...]
    geometry: Geometry
    out_shape: tuple[int, ...]
    modes: tuple[str, ...]


@functools.cache
def _glorot(rank: int) -> Initializer:
    return initializers.glorot_uniform(in_axis=-2, out_axis=-1, batch_axis=tuple(range(rank)))
