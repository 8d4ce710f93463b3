"""Ways to compute a convolution, equal up to rounding. ``conv.py`` chooses among them.

All take x (batch, *spatial, in), kernel (*size, in / groups, out) and a ``Geometry``.
"""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..custom_gradient import Bilinear, bilinear, pullback
from ..dtypes import at_least_float32
from .geometry import (
    Geometry,
    direct,
    out_size,
    padded_image,
    tap_sees,
    taps_see,
)

# Fewer taps than this: sums of padded arrays, fused in one loop, beat slices of a padded copy.
_FEW_TAPS = 16
# Windows of so many taps, side by side, leave nothing to gain in the gradient of the image.
_FEW_TOUCHING = 4
# Channels of the small dense convolutions that groups are put together into.
_BLOCK = 16


def matmul(x: jax.Array, kernel: jax.Array, how: Geometry) -> jax.Array:
    """A kernel of one tap: a matrix product of all pixels."""
    x = padded_image(x, how)
    x = tap_sees(x, (0,) * len(how.strides), out_size(x, kernel, how), how)
    # Two axes: the kernel's gradient contracts over one, where over three XLA copies first.
    y = x.reshape(-1, x.shape[-1]) @ kernel.reshape(kernel.shape[-2:])
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


def patches(x: jax.Array, kernel: jax.Array, how: Geometry) -> jax.Array:
    """What each output sees, laid out beside each other, and one product with the kernel."""
    x = padded_image(x, how)
    size, out = kernel.shape[:-2], out_size(x, kernel, how)
    if _touch(kernel, how):
        seen = _tiles(x, size, out)
    else:
        taps = itertools.product(*map(range, size))
        seen = jnp.concatenate([tap_sees(x, tap, out, how) for tap in taps], -1)
    y = seen.reshape(-1, seen.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(x.shape[0], *out, kernel.shape[-1])


def _touch(kernel: jax.Array, how: Geometry) -> bool:
    """Whether the windows touch and do not overlap."""
    return kernel.shape[:-2] == how.strides and all(d == 1 for d in how.dilation)


def _patches_input_gradient(
    x: jax.Array, kernel: jax.Array, ct: jax.Array, how: Geometry
) -> jax.Array:
    # XLA adds up what overlaps faster; small windows that do not are as good.
    many = math.prod(kernel.shape[:-2]) > _FEW_TOUCHING
    run = patches if _touch(kernel, how) and many else direct
    return pullback(lambda x: run(x, kernel, how), x, ct)


def _tiles(x: jax.Array, size: tuple[int, ...], out: tuple[int, ...]) -> jax.Array:
    """The windows of an image that touch and do not overlap: (batch, *out, taps * in)."""
    rank = len(size)
    inside = (slice(n * k) for n, k in zip(out, size, strict=True))
    both = (n for pair in zip(out, size, strict=True) for n in pair)
    x = x[(slice(None), *inside)].reshape(x.shape[0], *both, x.shape[-1])
    outer, inner = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
    x = jnp.transpose(x, (0, *outer, *inner, 2 * rank + 1))
    return x.reshape(x.shape[0], *out, -1)


def shifted(x: jax.Array, kernel: jax.Array, how: Geometry) -> jax.Array:
    """One channel a group: the sum over taps of shifted images times a number for each channel."""
    wide = at_least_float32(x.dtype)
    weights = kernel.astype(wide)
    total = None
    for at, part in taps_see(x, kernel, how):
        term = _scale_channels(part.astype(wide), weights[at][0])
        total = term if total is None else total + term
    assert total is not None
    return total.astype(x.dtype)


def _scale_channels(part: jax.Array, weights: jax.Array) -> jax.Array:
    """(..., C) times (C * m,): m numbers for each channel."""
    times = weights.shape[0] // part.shape[-1]
    if times > 1:
        shape = (*part.shape, times)
        part = lax.broadcast_in_dim(part, shape, range(part.ndim))
        part = part.reshape(*shape[:-2], weights.shape[0])
    return part * jnp.broadcast_to(weights, part.shape)


def _shifted_input_gradient(
    x: jax.Array, kernel: jax.Array, ct: jax.Array, how: Geometry
) -> jax.Array:
    taps = math.prod(kernel.shape[:-2])
    one_each = kernel.shape[-1] == x.shape[-1]
    if taps < _FEW_TAPS or any(s > 1 for s in how.strides) or not one_each:
        return pullback(lambda x: shifted(x, kernel, how), x, ct)
    # Stride 1: a convolution again, of the cotangent with the flipped kernel.
    axes = tuple(range(len(how.strides)))
    reach = [d * (k - 1) for k, d in zip(kernel.shape, how.dilation, strict=False)]
    padding = tuple((r - low, r - high) for r, (low, high) in zip(reach, how.padding, strict=True))
    return shifted(ct, lax.rev(kernel, axes), how._replace(padding=padding))


def _shifted_kernel_gradient(
    x: jax.Array, kernel: jax.Array, ct: jax.Array, how: Geometry
) -> jax.Array:
    """Image by image and tap by tap, so that what is multiplied and added up stays in the cache."""
    wide, channels = at_least_float32(x.dtype), ct.shape[-1]
    size, pixels = kernel.shape[:-2], math.prod(ct.shape[1:-1])
    places = np.array(list(itertools.product(*map(range, size), (0,)))) * (*how.dilation, 1)
    spans = [(n - 1) * s + 1 for n, s in zip(ct.shape[1:-1], how.strides, strict=True)]

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def add_image(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        one, grad = (a.astype(wide) for a in image)
        one = padded_image(one[None], how)[0]

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def of_tap(at: jax.Array) -> jax.Array:
            part = lax.dynamic_slice(one, at, (*spans, one.shape[-1]))
            part = lax.slice(part, (0,) * part.ndim, part.shape, (*how.strides, 1))
            both = (_repeat_channels(part, channels) * grad).reshape(pixels, channels)
            # The sum as a product with ones: XLA for CPU would first copy each part it sums. By two
            # rows of them, for a single row is no matrix, and its product a loop of its own.
            return (jnp.ones((2, pixels), wide) @ both)[0]

        return total + lax.map(of_tap, jnp.asarray(places, jnp.int32)), None

    # Made of the cotangent, so that it is spread over devices as the batch is: scan insists on it.
    zeros = jnp.zeros_like(ct[(0,) * (ct.ndim - 1)], wide)
    total, _ = lax.scan(add_image, jnp.stack([zeros] * len(places)), (x, ct))
    return total.reshape(kernel.shape).astype(kernel.dtype)


def _repeat_channels(part: jax.Array, channels: int) -> jax.Array:
    times = channels // part.shape[-1]
    return part if times == 1 else jnp.repeat(part, times, -1)


def blocks(x: jax.Array, kernel: jax.Array, how: Geometry) -> jax.Array:
    """Groups put together into dense convolutions of some 16 channels, zero between groups.

    The zeros cost arithmetic, and less than a narrow convolution loses.
    """
    inputs, features = kernel.shape[-2], kernel.shape[-1] // how.groups
    together = next(
        m
        for m in range(1, how.groups + 1)
        if how.groups % m == 0 and (m * min(inputs, features) >= _BLOCK or m == how.groups)
    )
    size, count = kernel.shape[:-2], how.groups // together
    # (*size, in, block, group, out) to (*size, block, group, in, group, out), zero off the diagonal
    parts = kernel.reshape(*size, inputs, count, together, features)
    parts = jnp.moveaxis(parts, -4, -2)
    parts = jnp.expand_dims(parts, -3) if together > 1 else parts
    if together > 1:
        eye = jnp.eye(together, dtype=bool)[:, :, None, None]
        shape = (*size, count, together, together, inputs, features)
        parts = jnp.where(
            jnp.broadcast_to(eye, shape), jnp.broadcast_to(parts, shape), jnp.zeros((), x.dtype)
        )
        parts = jnp.swapaxes(parts, -3, -2)
    parts = parts.reshape(*size, count, together * inputs, together * features)
    dense = planes if len(size) == 3 else direct
    width = together * inputs
    return lax.concatenate(
        [
            dense(
                lax.slice_in_dim(x, i * width, (i + 1) * width, axis=x.ndim - 1),
                parts[..., i, :, :],
                how._replace(groups=1),
            )
            for i in range(count)
        ],
        x.ndim - 1,
    )


def planes(x: jax.Array, kernel: jax.Array, how: Geometry) -> jax.Array:
    """3-D as 2-D: the taps along the first spatial axis become channels, its steps batch."""
    first = Geometry(how.strides[:1], how.padding[:1], how.dilation[:1])
    rest = Geometry(how.strides[1:], how.padding[1:], how.dilation[1:])
    padded = padded_image(x, how._replace(padding=(*first.padding, (0, 0), (0, 0))))
    taps = kernel.shape[0]
    reach = first.dilation[0] * (taps - 1) + 1
    depth = (padded.shape[1] - reach) // first.strides[0] + 1
    stacked = lax.concatenate(
        [
            lax.slice_in_dim(
                padded,
                tap * first.dilation[0],
                tap * first.dilation[0] + (depth - 1) * first.strides[0] + 1,
                first.strides[0],
                axis=1,
            )
            for tap in range(taps)
        ],
        x.ndim - 1,
    )
    images = stacked.reshape(-1, *stacked.shape[2:])
    kernel = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, kernel.shape[-1])
    run = matmul if kernel.shape[:2] == (1, 1) else direct
    y = run(images, kernel, rest)
    return y.reshape(x.shape[0], depth, *y.shape[1:])


def _lines(x: jax.Array, kernel: jax.Array, how: Geometry) -> jax.Array:
    """``planes`` for a kernel that lies along the first axis: the others are one axis of images."""
    batch, depth, *plane, channels = x.shape
    rest = Geometry((how.strides[0], 1), (how.padding[0], (0, 0)), (how.dilation[0], 1))
    images = x.reshape(batch, depth, -1, channels)
    y = direct(images, kernel.reshape(kernel.shape[0], 1, *kernel.shape[-2:]), rest)
    return y.reshape(batch, y.shape[1], *plane, -1)


def _by_planes(x: jax.Array, kernel: jax.Array, how: Geometry) -> jax.Array:
    still = set(how.strides[1:]) == {1} and not any(map(any, how.padding[1:]))
    return (_lines if kernel.shape[1:3] == (1, 1) and still else planes)(x, kernel, how)


def algorithm(method: str, how: Geometry) -> Bilinear:
    """The three programs of a method."""
    value = {
        "direct": direct,
        "matmul": matmul,
        "patches": patches,
        "shifted": shifted,
        "blocks": blocks,
        "planes": planes,
    }[method]
    same = bilinear(lambda x, kernel: value(x, kernel, how))
    if method == "shifted":
        return same._replace(
            left=lambda x, kernel, ct: _shifted_input_gradient(x, kernel, ct, how),
            right=lambda x, kernel, ct: _shifted_kernel_gradient(x, kernel, ct, how),
        )
    if method == "patches":
        return same._replace(
            value=lambda x, kernel: (direct if _touch(kernel, how) else patches)(x, kernel, how),
            left=lambda x, kernel, ct: _patches_input_gradient(x, kernel, ct, how),
        )
    if method == "planes":
        return bilinear(lambda x, kernel: _by_planes(x, kernel, how))._replace(right=same.right)
    if method == "matmul" and any(stride > 1 for stride in how.strides):
        # Alone, the product loses to XLA by the copy that the strides make; the gradients do not.
        return same._replace(value=lambda x, kernel: direct(x, kernel, how))
    return same
