"""Pooling windows of any rank, channels last.

How to read this file: ``max_pool`` and ``avg_pool``, with ``min_pool`` and ``sum_pool`` beside
them, define three programs, XLA's own (direct), one axis after the other (by axis), and the
gradient of the latter. ``_pool`` puts them together for the platform; ``choose_pool`` is the rule.
``_max_gradient`` decides how many images the gradient of the maximum takes at a time,
``_max_gradient_of`` computes it. The windows themselves are in ``windows.py``, the measurements in
docs/notes/0009-compiled-cores.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .custom_gradient import apply_transpose, linear_op, on_cpu, with_custom_gradient
from .dispatch import AlgorithmChoice, check_method, record_choice, traced_once
from .dtypes import at_least_float32, is_sharded, is_symbolic, min_value, turned_round
from .windows import Padding, Windows, explicit_padding, pad_or_crop

METHODS = ("direct", "axes")

# The gradient of a maximum has one term for each offset along an axis: with more, its program is
# too long.
_MAX_OFFSETS = 128
# The gradient of windows that overlap stores numbers between its axes. Many of them (24 MB) come as
# fresh pages at each call, which cost more than the arithmetic: 35 ms of which 30 are pages, for
# (8, 112, 112, 64). Then a few images are taken at a time, of at most so many numbers.
_MAX_INTERMEDIATES = 6 << 20
_MAX_BATCH_SIZE = 1 << 20


class _Programs(NamedTuple):
    """A pool in three programs: by axis, its gradient, and XLA's own."""

    by_axis: Callable[[jax.Array], jax.Array]
    gradient: Callable[[jax.Array, jax.Array], jax.Array]
    direct: Callable[[jax.Array], jax.Array]
    linear: bool = False


@traced_once("window_shape", "strides", "padding", "dilation", "method")
def max_pool(
    x: jax.Array,
    *,
    window_shape: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int] | None = None,
    method: str | None = None,
) -> jax.Array:
    """The largest value in each window; padding never wins.

    Of equal values the first one receives the gradient.

    Args:
      x: (batch, *spatial, channels), floating or integer.
      window_shape, strides: one int for each spatial axis.
      padding: ``"VALID"``, ``"SAME"``, or a (low, high) for each spatial axis.
      dilation: steps between the elements of a window, for each spatial axis; by default 1.
      method: ``"direct"`` (``lax.reduce_window``) or ``"axes"`` (one axis after the other); by
        default what ``choose_pool`` says for the platform that the program is compiled for.

    Returns:
      (batch, *spatial', channels), of the dtype of ``x``. A window of padding alone gives the
      lowest value of the dtype, minus infinity for floats.

    Raises:
      ValueError: for another method.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([1.0, 5.0, 2.0, 4.0]).reshape(1, 4, 1)
    >>> jl.core.max_pool(x, window_shape=(2,), strides=(2,), padding="VALID").ravel().tolist()
    [5.0, 4.0]
    """
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    lowest = min_value(x.dtype)
    windows = _windows(x, window_shape, strides, padding, dilation)

    def direct(x: jax.Array) -> jax.Array:
        return windows.reduce(x, lowest, lax.max)

    def by_axis(x: jax.Array) -> jax.Array:
        # XLA converts to float32 and back for each comparison of bfloat16: here it is done once.
        wide = x.astype(at_least_float32(x.dtype)) if floating else x
        return windows.reduce_by_axis(wide, lowest.astype(wide.dtype), lax.max).astype(x.dtype)

    def gradient(x: jax.Array, ct: jax.Array) -> jax.Array:
        return _max_gradient(x, ct, windows)

    use_axes = _choose("max_pool", x, max(window_shape), method)
    if not floating:
        return by_axis(x) if method == "axes" else direct(x)
    if any(d > 1 for d in windows.dilation) and not is_symbolic(*x.shape[1:-1]):
        # JAX has no gradient of XLA's own where there are holes.
        forward = by_axis if use_axes else direct
        return with_custom_gradient(
            lambda x: (forward(x), ()), lambda args, _, ct: (gradient(args[0], ct),)
        )(x)
    return _pool(x, use_axes, method, _Programs(by_axis, gradient, direct))


@traced_once(
    "window_shape", "strides", "padding", "dilation", "count_include_pad", "divisor", "method"
)
def avg_pool(
    x: jax.Array,
    *,
    window_shape: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int] | None = None,
    count_include_pad: bool | Sequence[tuple[int, int]] = False,
    divisor: float | None = None,
    method: str | None = None,
) -> jax.Array:
    """The mean of each window.

    Args:
      x: (batch, *spatial, channels), floating.
      window_shape, strides, padding, dilation, method: as for ``max_pool``.
      count_include_pad: divide by the window's size also where it overlaps the padding; or as much
        of the padding as counts, a (low, high) for each spatial axis.
      divisor: what each sum is divided by, in place of the window's size.

    Returns:
      (batch, *spatial', channels), of the dtype of ``x``; sums are taken in float32 at least. A
      window of padding alone gives 0.

    Raises:
      ValueError: for another method.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([1.0, 5.0, 2.0]).reshape(1, 3, 1)
    >>> jl.core.avg_pool(x, window_shape=(2,), strides=(2,), padding="SAME").ravel().tolist()
    [3.0, 2.0]
    """
    windows = _windows(x, window_shape, strides, padding, dilation)
    total = _total("avg_pool", x, windows, method)
    counted: Any = windows.padding if count_include_pad is True else count_include_pad or ()
    if divisor is not None:
        return (total / divisor).astype(x.dtype)
    if windows.padding == tuple(counted) or not any(map(any, windows.padding)):
        return (total / math.prod(window_shape)).astype(x.dtype)
    # How many pixels of each window are not padding: the same for all images and channels.
    ones = jnp.ones((1, *x.shape[1:-1], 1), total.dtype)
    if counted:
        edges = zip(windows.padding, counted, strict=True)
        windows = windows._replace(
            padding=tuple((all_[0] - some[0], all_[1] - some[1]) for all_, some in edges)
        )
        ones = pad_or_crop(ones, counted, 1)
    count = windows.reduce(ones, np.array(0, total.dtype), lax.add)
    pairs = zip(windows.padding, window_shape, windows.dilation, strict=True)
    # There may be windows of padding alone.
    if any(d > 1 or (not is_symbolic(*sides) and max(sides) >= k) for sides, k, d in pairs):
        count = jnp.maximum(count, jnp.ones_like(count))
    return (total / jnp.broadcast_to(count, total.shape)).astype(x.dtype)


def min_pool(
    x: jax.Array,
    *,
    window_shape: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int] | None = None,
    method: str | None = None,
) -> jax.Array:
    """The smallest value in each window; padding never wins.

    Args:
      x: (batch, *spatial, channels), floating or integer.
      window_shape, strides, padding, dilation, method: as for ``max_pool``.

    Returns:
      (batch, *spatial', channels), of the dtype of ``x``.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([1, 5, 2, 3]).reshape(1, 4, 1)
    >>> jl.core.min_pool(x, window_shape=(2,), strides=(2,), padding="VALID").ravel().tolist()
    [1, 2]
    """
    options: Any = {"window_shape": window_shape, "strides": strides, "padding": padding}
    return turned_round(max_pool(turned_round(x), **options, dilation=dilation, method=method))


@traced_once("window_shape", "strides", "padding", "dilation", "method")
def sum_pool(
    x: jax.Array,
    *,
    window_shape: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int] | None = None,
    method: str | None = None,
) -> jax.Array:
    """The sum of each window.

    Args:
      x: (batch, *spatial, channels), floating.
      window_shape, strides, padding, dilation, method: as for ``max_pool``.

    Returns:
      (batch, *spatial', channels), of the dtype of ``x``; sums are taken in float32 at least.

    Raises:
      ValueError: for another method.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([1.0, 5.0, 2.0]).reshape(1, 3, 1)
    >>> jl.core.sum_pool(x, window_shape=(2,), strides=(2,), padding="SAME").ravel().tolist()
    [6.0, 2.0]
    """
    windows = _windows(x, window_shape, strides, padding, dilation)
    return _total("sum_pool", x, windows, method).astype(x.dtype)


def _windows(
    x: jax.Array,
    window_shape: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int] | None,
) -> Windows:
    sides = (1,) * len(window_shape) if dilation is None else tuple(dilation)
    windows = Windows(tuple(window_shape), tuple(strides), (), sides)
    return windows._replace(padding=explicit_padding(x, windows.extents, strides, padding))


def _total(operation: str, x: jax.Array, windows: Windows, method: str | None) -> jax.Array:
    """The sum of each window, in float32 at least."""
    wide = x.astype(at_least_float32(x.dtype))
    # The gradient of a sum does not compare offsets: windows of any size may go by axis.
    return _sum_pool(wide, windows, _choose(operation, x, 1, method), method)


def _sum_pool(x: jax.Array, windows: Windows, use_axes: bool, method: str | None) -> jax.Array:
    zero = np.array(0, x.dtype)

    def direct(x: jax.Array) -> jax.Array:
        return windows.reduce(x, zero, lax.add)

    def by_axis(x: jax.Array) -> jax.Array:
        return windows.reduce_by_axis(x, zero, lax.add)

    def gradient(x: jax.Array, ct: jax.Array) -> jax.Array:
        if all(stride == 1 for stride in windows.strides):
            # At stride 1 the windows that contain a pixel are a window themselves.
            sides = zip(windows.extents, windows.padding, strict=True)
            pads = [(k - 1 - low, k - 1 - high) for k, (low, high) in sides]
            return windows._replace(padding=tuple(pads)).reduce_by_axis(ct, zero, lax.add)
        for axis in reversed(range(len(windows.window_shape))):
            ct = windows.along(axis).sum_over_windows(axis, ct, x.shape[axis + 1])
        return ct

    return _pool(x, use_axes, method, _Programs(by_axis, gradient, direct, linear=True))


def choose_pool(offsets: int, platform: str) -> AlgorithmChoice:
    """The algorithm of a pool, with the reason.

    Args:
      offsets: how many offsets along an axis the gradient compares.
      platform: ``"cpu"``, ``"gpu"`` or ``"tpu"``.
    """
    if platform != "cpu":
        return AlgorithmChoice("direct", "XLA's own windows on accelerators")
    if offsets > _MAX_OFFSETS:
        return AlgorithmChoice(
            "direct", f"a side of {offsets}: too long for a gradient that gathers"
        )
    return AlgorithmChoice(
        "axes", "one axis after the other; the gradient gathers, where XLA's scatters"
    )


def _choose(operation: str, x: jax.Array, offsets: int, method: str | None) -> bool:
    """Whether to go axis by axis, at least on CPU."""
    check_method(method, METHODS, operation)
    cpu, default = (choose_pool(offsets, platform) for platform in ("cpu", "gpu"))
    if is_symbolic(*x.shape[1:-1]):
        cpu = AlgorithmChoice("direct", "sizes that are not known yet")
    record_choice(operation, cpu, default, method)
    return (method or cpu.method) == "axes" and 0 not in x.shape


def _pool(x: jax.Array, use_axes: bool, method: str | None, programs: _Programs) -> jax.Array:
    """By axis on CPU or where the method is given; XLA's own otherwise."""
    by_axis, gradient, direct, linear = programs
    if not use_axes:
        return direct(x)
    if method is not None:
        return with_custom_gradient(
            lambda x: (by_axis(x), ()), lambda args, _, ct: (gradient(args[0], ct),)
        )(x)

    def tangent(
        args: tuple[jax.Array, ...], out: jax.Array, tangents: dict[int, jax.Array]
    ) -> jax.Array:
        backward = functools.partial(gradient, args[0])
        if linear and not is_sharded(args[0]):
            return linear_op(by_axis, backward)(tangents[0])
        return apply_transpose(backward, out, tangents[0])

    return on_cpu(by_axis, tangent, direct)(x)


def _max_gradient(x: jax.Array, ct: jax.Array, windows: Windows) -> jax.Array:
    """The gradient of the maximum, some images at a time where the intermediates are many."""
    batch, image_size = x.shape[0], math.prod(x.shape[1:])
    overlap = any(k > s for k, s in zip(windows.extents, windows.strides, strict=True))
    divisors = [n for n in range(2, batch) if batch % n == 0]
    # An estimate: six numbers for each pixel that the reduction of the last axis leaves.
    intermediates = 6 * x.size // windows.strides[-1]
    if intermediates <= _MAX_INTERMEDIATES or not overlap or not divisors or is_sharded(x):
        return _max_gradient_of(x, ct, windows)
    fitting = [n for n in divisors if n * image_size <= _MAX_BATCH_SIZE]
    images = max(fitting or divisors[:1])
    xs, cts = (a.reshape(-1, images, *a.shape[1:]) for a in (x, ct))

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def gradient(x_and_ct: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _max_gradient_of(*x_and_ct, windows)

    dx: jax.Array = lax.map(gradient, (xs, cts))
    return dx.reshape(x.shape)


def _max_gradient_of(x: jax.Array, ct: jax.Array, windows: Windows) -> jax.Array:
    """Each pixel receives ``ct`` of the windows in which it is the first of the largest values.

    One axis after the other. The last axis is reduced first, so that the first of equal values is
    found in row-major order, as XLA finds it. All nine offsets of a 3x3 window at once were 3 to 4
    times slower, in bfloat16 14 times.
    """
    axes, dtype = range(len(windows.window_shape)), x.dtype
    x, ct = (a.astype(at_least_float32(dtype)) for a in (x, ct))
    lowest = np.array(-np.inf, x.dtype)
    inputs: dict[int, jax.Array] = {}  # of the reduction along each axis
    for axis in reversed(axes):
        inputs[axis] = x
        x = windows.along(axis).reduce_axis(axis, x, lowest, lax.max)
    for axis in axes:
        one_axis, image = windows.along(axis), inputs[axis]
        best, *others = one_axis.slices(image, lowest)
        argmax = jnp.zeros_like(ct, jnp.int32)
        step = windows.dilation[axis]
        for offset, values in enumerate(others, 1):
            larger = values > best  # not >=: the first of equal values wins
            best, argmax = jnp.where(larger, values, best), jnp.where(larger, offset * step, argmax)
        ct = one_axis.sum_over_windows(axis, ct, image.shape[axis + 1], argmax)
    return ct.astype(dtype)
