"""Pooling: windows and whole images reduced to their largest value or their mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ... import core
from ...base import arguments
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence import Sequence, split
from ...base.sequence_mode import SequenceMode
from ...base.specs import Params, State
from ..conv.base import IMAGE, NO_CHANNELS, Sizes
from ..windowed import Windowed, windowed


@factory
def MaxPool(
    window_shape: Sizes,
    *,
    strides: Sizes | None = None,
    padding: arguments.Padding = "VALID",
    method: str | None = None,
) -> Layer:
    """The largest value of each window. Padding never wins.

    Args:
      window_shape: an int for all spatial axes, or one for each.
      strides: likewise; the window by default, so that windows do not overlap.
      padding: ``"VALID"``, ``"SAME"``, ``"CAUSAL"`` (an output sees no later step of the first
        spatial axis), an int, or a (low, high) for each spatial axis.
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
    options = _Windows(window_shape, strides, padding)

    def run(params: Params, x: jax.Array, mask: Any, within: bool) -> jax.Array:
        if mask is not None:
            x = Sequence(x, mask).fill(core.lowest_of(x.dtype))
        return core.max_pool(x, **options.on(x, within), method=method)

    return windowed(options.check, Windowed(options.over_time, run, counts=True))


@factory
def AvgPool(
    window_shape: Sizes,
    *,
    strides: Sizes | None = None,
    padding: arguments.Padding = "VALID",
    count_include_pad: bool = False,
    method: str | None = None,
) -> Layer:
    """The mean of each window.

    Args:
      window_shape: an int for all spatial axes, or one for each.
      strides: likewise; the window by default, so that windows do not overlap.
      padding: ``"VALID"``, ``"SAME"``, ``"CAUSAL"`` (an output sees no later step of the first
        spatial axis), an int, or a (low, high) for each spatial axis.
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
    options = _Windows(window_shape, strides, padding)
    count_include_pad = arguments.flag("count_include_pad", count_include_pad)

    def check(key: Any, x: Any) -> Params:
        options.check(key, x)
        arguments.floating(x)
        return {}

    def run(params: Params, x: jax.Array, mask: Any, within: bool) -> jax.Array:
        if mask is None or count_include_pad:
            return mean(x, within, count_include_pad)
        share = Sequence(x, mask)
        some = jnp.ones((*x.shape[:-1], 1), core.at_least_float32(x.dtype))
        total, count = (
            mean(part, within, True) for part in (share.fill(), share._with(some).fill())
        )
        count = jnp.where(count > 0, count, jnp.ones_like(count))
        y = total.astype(count.dtype) / jnp.broadcast_to(count, total.shape)
        return y.astype(x.dtype)

    def mean(x: jax.Array, within: bool, count_all: bool) -> jax.Array:
        windows = options.on(x, within)
        return core.avg_pool(x, **windows, count_include_pad=count_all, method=method)

    return windowed(check, Windowed(options.over_time, run, counts=True))


class _Windows:
    """The arguments of a pool, checked, and spread over the axes of an input."""

    def __init__(self, window: Sizes, strides: Sizes | None, padding: arguments.Padding):
        self.window = arguments.positive_sizes("window_shape", window)
        self.strides = (
            self.window if strides is None else arguments.positive_sizes("strides", strides)
        )
        self.padding = arguments.padding_argument(padding, causal=True)

    def check(self, key: Any, x: Any) -> Params:
        """Raises where they do not fit ``x``."""
        self.on(x, False)
        return {}

    def over_time(self, x: Any) -> core.TimeWindow:
        how = self.on(x, False)
        pads = core.explicit_padding(x, how["window"], how["strides"], how["padding"])
        size, stride = how["window"][0], how["strides"][0]
        return core.TimeWindow(size, stride, *pads[0], self.padding == "SAME")

    def on(self, x: Any, within: bool) -> dict[str, Any]:
        """For an input; ``within`` one whose first steps are context, without padding in time."""
        rank = len(self.window) + 2 if isinstance(self.window, tuple) else None
        arguments.one_array(x, IMAGE, rank=rank, least_rank=3, lower=NO_CHANNELS)
        arguments.real(x)
        arguments.not_empty(x, IMAGE)
        rank = x.ndim - 2
        window = arguments.spread("window_shape", self.window, rank)
        padding = arguments.spread_padding(self.padding, rank)
        arguments.window_fits(x, x.shape[1:-1], window, padding, "the window")
        if not isinstance(padding, str) and any(
            max(pads) >= size for pads, size in zip(padding, window, strict=True)
        ):
            raise LayerError(
                f"padding {padding} leaves windows {window} with nothing else in them",
                hint="padding smaller than the window",
            )
        strides = arguments.spread("strides", self.strides, rank)
        if within:
            pads = core.explicit_padding(x, window, strides, padding)
            padding = ((0, 0), *pads[1:])
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

    def pool(x: jax.Array, mask: Any) -> jax.Array:
        if mask is None:
            return core.global_max_pool(x)
        y = core.global_max_pool(Sequence(x, mask).fill(core.lowest_of(x.dtype)))
        some = jnp.broadcast_to(jnp.any(mask, 1)[:, None], y.shape)
        return jnp.where(some, y, jnp.zeros_like(y))

    return _over_all(pool, lambda x: None)


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

    def pool(x: jax.Array, mask: Any) -> jax.Array:
        axes, wide = tuple(range(1, x.ndim - 1)), core.at_least_float32(x.dtype)
        if mask is None:
            return jnp.mean(x, axes, dtype=wide).astype(x.dtype)
        total = jnp.sum(x, axes, dtype=wide)
        count = jnp.maximum(jnp.sum(mask, 1), 1) * math.prod(x.shape[2:-1])
        return (total / jnp.broadcast_to(count[:, None], total.shape).astype(wide)).astype(x.dtype)

    return _over_all(pool, arguments.floating)


def _over_all(pool: Callable[[jax.Array, Any], jax.Array], check: Callable[[Any], None]) -> Layer:
    """The layer of ``pool(x, mask)``; ``x`` has zeros in the padding."""

    def init(key: Any, x: Any) -> tuple[Params, State]:
        arguments.one_array(x, IMAGE, least_rank=3, lower=NO_CHANNELS)
        arguments.real(x)
        arguments.not_empty(x, IMAGE)
        check(x)
        return {}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: Any, train: bool
    ) -> tuple[jax.Array, State]:
        return pool(*split(x)), state

    return Layer(
        init,
        apply,
        sequence_mode=SequenceMode("whole"),
        stream="it is one value for the whole sequence",
    )
