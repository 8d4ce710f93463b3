"""Overlapping frames of a signal, and their sum, each the transpose of the other.

Both move whole blocks of ``stride`` samples: a frame is some of these blocks one after the other,
so that there is one slice for each block of a frame and no index for each sample. On CPU long
frames of single numbers are copied one by one instead: ``_gathered``.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..dispatch import traced_once
from ..dtypes import is_sharded, is_symbolic

# From this length on a frame is one copy on CPU: half the time of copies of blocks, forward and
# backward, and up to four times for 32 samples or channels side by side (docs/notes/0017).
_LONG = 96


@traced_once("length", "stride")
def frame(x: jax.Array, *, length: int, stride: int) -> jax.Array:
    """Frames of ``length`` samples, one every ``stride``.

    Args:
      x: (batch, time, ...), with ``length`` samples or more.

    Returns:
      (batch, (time - length) // stride + 1, length, ...), of the dtype of ``x``.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> jl.core.frame(jnp.arange(5).reshape(1, 5), length=3, stride=2)[0].tolist()
    [[0, 1, 2], [2, 3, 4]]
    """
    take = functools.partial(_of_blocks, length=length, stride=stride)
    if x.ndim > 2 or length < _LONG or stride >= length or is_symbolic(*x.shape) or is_sharded(x):
        return take(x)
    gather = functools.partial(_gathered, length=length, stride=stride)
    return lax.platform_dependent(x, cpu=gather, default=take)  # type: ignore[no-any-return]


def _gathered(x: jax.Array, *, length: int, stride: int) -> jax.Array:
    starts = np.arange((x.shape[1] - length) // stride + 1, dtype=np.int32) * np.int32(stride)
    one = functools.partial(lax.dynamic_slice_in_dim, x, slice_size=length, axis=1)
    return jax.vmap(one, out_axes=1)(starts)


def _of_blocks(x: jax.Array, *, length: int, stride: int) -> jax.Array:
    blocks = -(-length // stride)
    count = (x.shape[1] - length) // stride + 1
    # What the last block of the last frame has beyond it; and no samples that no frame has.
    used = (count - 1) * stride + length
    x = lax.slice_in_dim(x, 0, used, axis=1)
    x = lax.pad(x, jnp.zeros((), x.dtype), _time_edges(x, 0, blocks * stride - length))
    parts = []
    for block in range(blocks):
        part = lax.slice_in_dim(x, block * stride, (block + count) * stride, axis=1)
        parts.append(part.reshape(x.shape[0], count, stride, *x.shape[2:]))
    return lax.slice_in_dim(lax.concatenate(parts, 2), 0, length, axis=2)


@traced_once("stride")
def overlap_add(frames: jax.Array, *, stride: int) -> jax.Array:
    """The sum of frames, each ``stride`` samples after the one before: ``frame`` transposed.

    Args:
      frames: (batch, count, length, ...).

    Returns:
      (batch, (count - 1) * stride + length, ...), of the dtype of ``frames``; samples between
      frames are zeros.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> frames = jnp.array([[[1, 2, 3], [10, 20, 30]]])
    >>> jl.core.overlap_add(frames, stride=2)[0].tolist()
    [1, 2, 13, 20, 30]
    """
    rows, count, length = frames.shape[:3]
    blocks = -(-length // stride)
    zero = jnp.zeros((), frames.dtype)
    edges = [(0, 0, 0)] * frames.ndim
    edges[2] = (0, blocks * stride - length, 0)
    frames = lax.pad(frames, zero, edges)
    total = None
    for block in range(blocks):
        part = lax.slice_in_dim(frames, block * stride, (block + 1) * stride, axis=2)
        part = lax.pad(part, zero, _time_edges(part, block, blocks - 1 - block))
        total = part if total is None else total + part
    assert total is not None
    y = total.reshape(rows, (count + blocks - 1) * stride, *frames.shape[3:])
    return lax.slice_in_dim(y, 0, (count - 1) * stride + length, axis=1)


def _time_edges(x: jax.Array, low: int, high: int) -> list[tuple[int, int, int]]:
    return [(low, high, 0) if axis == 1 else (0, 0, 0) for axis in range(x.ndim)]
