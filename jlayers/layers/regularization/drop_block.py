"""DropBlock: whole blocks of pixels set to zero at random while training."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ... import core
from ...base import arguments
from ...base.arguments import Fraction, Sizes
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.specs import format_spec
from ...core.dtypes import sharded_as
from .base import random_in_training


@factory
def DropBlock(rate: Fraction, block_shape: Sizes) -> Layer:
    """In training, blocks of neighbouring pixels are zero, a share of about ``rate`` in all.

    Each block that lies in the image is dropped with a probability of ``rate`` over the number of
    blocks that a pixel is in, for each channel by itself; blocks may overlap. What is left of a
    row is scaled by its number of values over the number of those that are left (Ghiasi et al.,
    2018, arXiv:1810.12890).

    Args:
      rate: about the share of pixels that are dropped, from 0 up to, not including, 1.
      block_shape: an int for all spatial axes, or one for each.

    Shapes:
      x: (batch, *spatial, channels), floating. y: of the same shape and dtype.

    Raises:
      LayerError: for ``train=True`` without a key, unless the rate is 0; for an input of another
        rank, and for a block larger than the image.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> x = jnp.ones((1, 16, 16, 4))
    >>> y, _ = jl.DropBlock(0.2, 3).apply({}, {}, x, key=jax.random.key(0), train=True)
    >>> bool(jnp.isclose(y.mean(), 1)), bool((y == 0).any())
    (True, True)
    """
    rank = len(block_shape) if isinstance(block_shape, tuple) else None

    def block_of(x: jax.Array | jax.ShapeDtypeStruct) -> tuple[int, ...]:
        sizes = x.shape[1:-1]
        block = arguments.spread("block_shape", block_shape, len(sizes))
        pairs = zip(sizes, block, strict=True)
        if any(isinstance(size, int) and size < part for size, part in pairs):
            raise LayerError(
                f"block_shape {block} is larger than the image",
                got=format_spec(x),
                hint="a smaller block_shape",
            )
        return block

    def drop(key: jax.Array, x: jax.Array) -> jax.Array:
        sizes, block = x.shape[1:-1], block_of(x)
        starts = tuple(size - part + 1 for size, part in zip(sizes, block, strict=True))
        # So that the share of dropped pixels is about the rate, were there no overlaps.
        share = rate / math.prod(block) * math.prod(sizes) / math.prod(starts)
        # Of symbolic sizes it is known where they are.
        share = min(share, 1.0) if isinstance(share, float) else jnp.minimum(share, 1)
        first = jax.random.bernoulli(key, share, (x.shape[0], *starts, x.shape[-1]))
        # A pixel is dropped if a block begins at it, or before it by less than a block.
        padding = tuple((part - 1, part - 1) for part in block)
        dropped = core.max_pool(
            first.astype(x.real.dtype),
            window_shape=block,
            strides=tuple(1 for _ in block),
            padding=padding,
        )
        keep = sharded_as(dropped <= 0, x)
        axes = tuple(range(1, x.ndim))
        left = jnp.maximum(jnp.sum(keep, axes, keepdims=True), 1)
        scale = (math.prod(x.shape[1:]) / left).astype(x.dtype)
        return jnp.where(keep, x * scale, jnp.zeros_like(x))

    return random_in_training(
        drop,
        never=rate == 0,
        expected="(batch, *spatial, channels)",
        least_rank=3 if rank is None else rank + 2,
        check=block_of,
    )
