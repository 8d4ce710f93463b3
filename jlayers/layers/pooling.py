"""Pooling: windows and whole images reduced to their largest value or their mean."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .. import checks, core
from ..errors import LayerError
from ..factory import factory
from ..layer import Layer
from ..lifting import lift
from .convolution import IMAGE, NO_CHANNELS, Sizes


@factory
def MaxPool(
    window: Sizes,
    *,
    strides: Sizes | None = None,
    padding: checks.Padding = "VALID",
    method: str | None = None,
) -> Layer:
    """The largest value of each window. Padding never wins.

    Args:
      window: an int for all spatial axes, or one for each.
      strides: likewise; the window by default, so that windows do not overlap.
      padding: ``"VALID"``, ``"SAME"``, an int, or a (low, high) for each spatial axis.
      method: ``"axes"`` or ``"direct"`` (XLA's own); by default the faster where it runs.

    Shapes:
      x: (batch, *spatial, channels). y: (batch, *spatial', channels), of the dtype of ``x``.

    Raises:
      LayerError: for an input of another rank, a window larger than the padded input, and padding
        as large as the window.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.MaxPool(2), jl.spec((8, 28, 28, 32))).shape
    (8, 14, 14, 32)
    """
    options = _Windows(window, strides, padding)

    def pool(x: jax.Array) -> jax.Array:
        return core.max_pool(x, **options.on(x), method=method)

    return lift(pool)


@factory
def AvgPool(
    window: Sizes,
    *,
    strides: Sizes | None = None,
    padding: checks.Padding = "VALID",
    count_include_pad: bool = False,
    method: str | None = None,
) -> Layer:
    """The mean of each window.

    Args:
      window: an int for all spatial axes, or one for each.
      strides: likewise; the window by default, so that windows do not overlap.
      padding: ``"VALID"``, ``"SAME"``, an int, or a (low, high) for each spatial axis.
      count_include_pad: whether padding counts in the mean. False, as in Keras: a window at the
        border is the mean of what it sees. True as in PyTorch and Flax.
      method: ``"axes"`` or ``"direct"`` (XLA's own); by default the faster where it runs.

    Shapes:
      x: (batch, *spatial, channels), floating. y: (batch, *spatial', channels), of the dtype of
      ``x``; sums are taken in float32 at least.

    Raises:
      LayerError: for an input of another rank, a window larger than the padded input, and padding
        as large as the window.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.AvgPool((2, 1)), jl.spec((8, 28, 28, 32))).shape
    (8, 14, 28, 32)
    """
    options = _Windows(window, strides, padding)
    count_include_pad = checks.flag("count_include_pad", count_include_pad)

    def pool(x: jax.Array) -> jax.Array:
        windows = options.on(x)
        checks.floating(x)
        return core.avg_pool(x, **windows, count_include_pad=count_include_pad, method=method)

    return lift(pool)


class _Windows:
    """The arguments of a pool, checked, and spread over the axes of an input."""

    def __init__(self, window: Sizes, strides: Sizes | None, padding: checks.Padding):
        self.window = checks.positive_sizes("window", window)
        self.strides = self.window if strides is None else checks.positive_sizes("strides", strides)
        self.padding = checks.padding_argument(padding)

    def on(self, x: Any) -> dict[str, Any]:
        rank = len(self.window) + 2 if isinstance(self.window, tuple) else None
        checks.one_array(x, IMAGE, rank=rank, least_rank=3, lower=NO_CHANNELS)
        checks.real(x)
        checks.not_empty(x, IMAGE)
        rank = x.ndim - 2
        window = checks.spread("window", self.window, rank)
        padding = checks.spread_padding(self.padding, rank)
        checks.window_fits(x, x.shape[1:-1], window, padding, "the window")
        if not isinstance(padding, str) and any(
            max(pads) >= size for pads, size in zip(padding, window, strict=True)
        ):
            raise LayerError(
                f"padding {padding} leaves windows {window} with nothing else in them",
                mend="padding smaller than the window",
            )
        strides = checks.spread("strides", self.strides, rank)
        return {"window": window, "strides": strides, "padding": padding}


@factory
def GlobalMaxPool() -> Layer:
    """The largest value over all spatial axes, for each channel.

    Shapes:
      x: (batch, *spatial, channels). y: (batch, channels), of the dtype of ``x``.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.GlobalMaxPool(), jl.spec((8, 7, 7, 32))).shape
    (8, 32)
    """

    def pool(x: jax.Array) -> jax.Array:
        _spatial_axes(x)
        return core.global_max_pool(x)

    return lift(pool)


@factory
def GlobalAvgPool() -> Layer:
    """The mean over all spatial axes, for each channel.

    Shapes:
      x: (batch, *spatial, channels), floating. y: (batch, channels), of the dtype of ``x``; sums
      are taken in float32 at least.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.GlobalAvgPool(), jl.spec((8, 7, 7, 32))).shape
    (8, 32)
    """

    def pool(x: jax.Array) -> jax.Array:
        axes = _spatial_axes(x)
        checks.floating(x)
        return jnp.mean(x, axes, dtype=core.at_least_float32(x.dtype)).astype(x.dtype)

    return lift(pool)


def _spatial_axes(x: Any) -> tuple[int, ...]:
    checks.one_array(x, IMAGE, least_rank=3, lower=NO_CHANNELS)
    checks.real(x)
    checks.not_empty(x, IMAGE)
    return tuple(range(1, x.ndim - 1))
