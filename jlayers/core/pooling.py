"""Pooling windows of any rank, channels last."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .custom_gradient import with_gradient
from .dispatch import Choice, check_method, record
from .dtypes import at_least_float32, lowest_of
from .sharding import is_spread
from .windows import Pads, Windows, explicit_padding

METHODS = ("direct", "axes")

# The gradient of a maximum names each tap of an axis: with more, its program is too long.
_MOST_TAPS = 128
# The gradient of windows that overlap keeps numbers between its axes. Many of them (24 MB) come as
# fresh pages at each call, which costs more than the arithmetic: then images go in turns.
_MOST_BETWEEN = 6 << 20
_SOME = 1 << 20


def max_pool(
    x: jax.Array,
    *,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Pads,
    method: str | None = None,
) -> jax.Array:
    """The largest value in each window; padding never wins.

    Of equal values the first has the gradient.

    Args:
      x: (batch, *spatial, channels), floating or integer.
      window, strides: one int for each spatial axis.
      padding: ``"VALID"``, ``"SAME"``, or a (low, high) for each spatial axis.
      method: ``"direct"`` (``lax.reduce_window``) or ``"axes"`` (one axis after the other); by
        default what ``choose_pool`` says for the platform that the program is compiled for.

    Returns:
      (batch, *spatial', channels), of the dtype of ``x``.

    Raises:
      ValueError: for another method.
    """
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    lowest = lowest_of(x.dtype)
    how = Windows(tuple(window), tuple(strides), explicit_padding(x, window, strides, padding))

    def direct(x: jax.Array) -> jax.Array:
        return how.reduce(x, lowest, lax.max)

    def axes(x: jax.Array) -> jax.Array:
        # Comparisons of bfloat16 are those of float32 between two conversions each.
        wide = x.astype(at_least_float32(x.dtype)) if floating else x
        return how.by_axes(wide, lowest.astype(wide.dtype), lax.max).astype(x.dtype)

    def gradient(x: jax.Array, ct: jax.Array) -> jax.Array:
        return _max_gradient(x, ct, how)

    by_axes = _chosen("max_pool", x, max(window), method)
    if not floating:
        return axes(x) if method == "axes" else direct(x)
    return _select(x, by_axes, method, (axes, gradient), direct)


def global_max_pool(x: jax.Array) -> jax.Array:
    """The largest value over all spatial axes; of equal values the first has the gradient.

    Args:
      x: (batch, *spatial, channels), floating or integer.

    Returns:
      (batch, channels), of the dtype of ``x``.
    """
    for _ in range(x.ndim - 2):
        x = _largest(x) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.max(x, 1)
    return x


# The gradient of jnp.max looks for the largest value with ==. A compiled program may compute ``x``
# twice, with different roundings: then nothing is found, and the gradient is wrong or NaN.
@jax.custom_jvp
def _largest(x: jax.Array) -> jax.Array:
    return jnp.max(x, 1)


@_largest.defjvp
def _largest_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    at = jnp.argmax(x, 1, keepdims=True)
    # Zeros like x, so that the positions are spread over devices as x is.
    places = lax.broadcasted_iota(at.dtype, x.shape, 1) + jnp.zeros_like(x, at.dtype)
    first = places == at

    def pick(values: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(first, values, jnp.zeros_like(values)), 1)

    return pick(x), pick(tangent)


def avg_pool(
    x: jax.Array,
    *,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Pads,
    count_include_pad: bool = False,
    method: str | None = None,
) -> jax.Array:
    """The mean of each window.

    Args:
      x: (batch, *spatial, channels), floating.
      window, strides: one int for each spatial axis.
      padding: ``"VALID"``, ``"SAME"``, or a (low, high) for each spatial axis.
      count_include_pad: divide by the window's size also where it reaches into the padding.
      method: as for ``max_pool``.

    Returns:
      (batch, *spatial', channels), of the dtype of ``x``; sums are taken in float32 at least.

    Raises:
      ValueError: for another method.
    """
    pads = explicit_padding(x, window, strides, padding)
    how = Windows(tuple(window), tuple(strides), pads)
    wide = x.astype(at_least_float32(x.dtype))
    zero = np.array(0, wide.dtype)
    total = _sum_pool(wide, how, _chosen("avg_pool", x, 1, method), method)
    if count_include_pad or not any(map(any, pads)):
        return (total / math.prod(window)).astype(x.dtype)
    ones = jnp.ones((1, *x.shape[1:-1], 1), wide.dtype)
    count = how.reduce(ones, zero, lax.add)
    return (total / jnp.broadcast_to(count, total.shape)).astype(x.dtype)


def _sum_pool(x: jax.Array, how: Windows, by_axes: bool, method: str | None) -> jax.Array:
    zero = np.array(0, x.dtype)

    def direct(x: jax.Array) -> jax.Array:
        return how.reduce(x, zero, lax.add)

    def axes(x: jax.Array) -> jax.Array:
        return how.by_axes(x, zero, lax.add)

    def gradient(x: jax.Array, ct: jax.Array) -> jax.Array:
        if all(stride == 1 for stride in how.strides):
            # A sum over windows again, of those that reach a pixel.
            pads = [
                (k - 1 - a, k - 1 - b) for k, (a, b) in zip(how.window, how.padding, strict=True)
            ]
            return how._replace(padding=tuple(pads)).by_axes(ct, zero, lax.add)
        for axis in reversed(range(len(how.window))):
            ct = how.along(axis).gather(axis, ct, x.shape[axis + 1])
        return ct

    return _select(x, by_axes, method, (axes, gradient), direct)


def choose_pool(taps: int, platform: str) -> Choice:
    """The algorithm of a pool whose gradient names so many taps of an axis, with the reason."""
    if platform != "cpu":
        return Choice("direct", "XLA's own windows on accelerators")
    if taps > _MOST_TAPS:
        return Choice("direct", f"{taps} taps: too many for a gradient that gathers")
    return Choice("axes", "one axis after the other; the gradient gathers, where XLA's scatters")


def _chosen(operation: str, x: jax.Array, taps: int, method: str | None) -> bool:
    """Whether to go by axes, at least on CPU."""
    check_method(method, METHODS, operation)
    on_cpu, elsewhere = (choose_pool(taps, platform) for platform in ("cpu", "gpu"))
    record(operation, on_cpu, elsewhere, method)
    return (method or on_cpu.method) == "axes" and 0 not in x.shape


def _select(
    x: jax.Array,
    by_axes: bool,
    method: str | None,
    ours: tuple[Callable[[jax.Array], jax.Array], Callable[[jax.Array, jax.Array], jax.Array]],
    direct: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """``ours``, a value and its gradient; ``direct`` where it was named, or on another platform."""
    value, gradient = ours
    if not by_axes:
        return direct(x)
    if method is not None:
        return with_gradient(  # type: ignore[no-any-return]
            lambda x: (value(x), ()),
            lambda args, _, ct: (gradient(*args, ct),),  # type: ignore[call-arg]
        )(x)

    def direct_gradient(x: jax.Array, ct: jax.Array) -> jax.Array:
        _, pull = jax.vjp(direct, x)
        (gradient,) = pull(ct)
        return gradient  # type: ignore[no-any-return]

    return with_gradient(  # type: ignore[no-any-return]
        lambda x: (lax.platform_dependent(x, cpu=value, default=direct), ()),
        lambda args, _, ct: (
            lax.platform_dependent(args[0], ct, cpu=gradient, default=direct_gradient),
        ),
    )(x)


def _max_gradient(x: jax.Array, ct: jax.Array, how: Windows) -> jax.Array:
    """Each pixel gathers from the windows in which it was the first of the largest."""
    batch, size = x.shape[0], math.prod(x.shape[1:])
    overlap = any(k > s for k, s in zip(how.window, how.strides, strict=True))
    turns = [n for n in range(2, batch) if batch % n == 0]
    between = 6 * x.size // how.strides[-1]
    if between <= _MOST_BETWEEN or not overlap or not turns or is_spread(x):
        return _gathered(x, ct, how)
    some = max([n for n in turns if n * size <= _SOME] or turns[:1])
    images, cts = (a.reshape(-1, some, *a.shape[1:]) for a in (x, ct))

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def gradient(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _gathered(*pair, how)

    gathered: jax.Array = lax.map(gradient, (images, cts))
    return gathered.reshape(x.shape)


def _gathered(x: jax.Array, ct: jax.Array, how: Windows) -> jax.Array:
    """``_max_gradient``, one axis after the other.

    The last axis is reduced first, so that the first of equal values is found in the order of rows.
    """
    axes, dtype = range(len(how.window)), x.dtype
    x, ct = (a.astype(at_least_float32(dtype)) for a in (x, ct))
    lowest, images = np.array(-np.inf, x.dtype), {}
    for axis in reversed(axes):
        images[axis] = x
        x = how.along(axis).by_axis(axis, x, lowest, lax.max)
    for axis in axes:
        alone, image = how.along(axis), images[axis]
        best, *others = alone.taps(image, lowest)
        at = jnp.zeros_like(ct, jnp.int32)
        for number, part in enumerate(others, 1):
            won = part > best
            best, at = jnp.where(won, part, best), jnp.where(won, number, at)
        ct = alone.gather(axis, ct, image.shape[axis + 1], at)
    return ct.astype(dtype)
