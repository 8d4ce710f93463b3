"""Maximum and mean over windows."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..row import Row
from .op import Op, Weights, no_weights, spread


class Window(NamedTuple):
    """A window with a number for each spatial axis; padding on both sides never counts."""

    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[int, ...]

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        return tuple((pad, pad) for pad in self.padding)

    @property
    def with_batch_and_channels(self) -> tuple[Any, Any, Any]:
        """Sizes, strides and paddings with a number for each axis of x."""
        return (1, *self.window, 1), (1, *self.strides, 1), ((0, 0), *self.pairs, (0, 0))


def window(row: Row) -> Window:
    rank = len(row.x) - 2
    size = spread(row["window"], rank)
    strides = spread(row.options.get("strides", size), rank)
    return Window(size, strides, spread(row.options.get("padding", 0), rank))


def _patches(row: Row, x: Any, fill: float) -> Any:
    """All positions in a window, stacked: (positions, batch, *spatial', channels)."""
    w = window(row)
    x = jnp.pad(x, ((0, 0), *w.pairs, (0, 0)), constant_values=fill)
    spans = zip(x.shape[1:-1], w.window, w.strides, strict=True)
    sizes = [(n - k) // s + 1 for n, k, s in spans]
    patches = []
    for position in np.ndindex(*w.window):
        stop = [at + s * (n - 1) + 1 for at, s, n in zip(position, w.strides, sizes, strict=True)]
        limits = (x.shape[0], *stop, x.shape[-1])
        patches.append(lax.slice(x, (0, *position, 0), limits, (1, *w.strides, 1)))
    return jnp.stack(patches)


def _max(row: Row, weights: Weights, x: Any) -> Any:
    patches = _patches(row, x, -jnp.inf)
    # The first of equal values gets the gradient, as in every framework that is measured.
    first = jnp.argmax(patches, 0, keepdims=True)
    return jnp.take_along_axis(patches, first, 0)[0]


def _average(row: Row, weights: Weights, x: Any) -> Any:
    return _patches(row, x, 0.0).sum(0) / _patches(row, jnp.ones_like(x), 0.0).sum(0)


MAX_POOL = Op(no_weights, _max)
AVG_POOL = Op(no_weights, _average)
