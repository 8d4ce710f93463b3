"""FIRFilter: a signal convolved with taps, each channel by itself."""

from __future__ import annotations

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from ...base import arguments
from ...base.arguments import Paddings, Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.specs import cast_like, format_short
from ...base.types import Params
from ...core.conv.conv import conv
from ..conv.base import WindowedOp, windowed_layer
from .base import Framing, time_padding


@factory
def FIRFilter(
    taps: Any,
    *,
    strides: Positive = 1,
    padding: Annotated[Paddings, time_padding] = "CAUSAL",
    trainable: bool = False,
) -> Layer:
    """``y[t] = taps[0] x[t] + taps[1] x[t - 1] + ...``, for each channel.

    It is ``scipy.signal.lfilter(taps, 1, x)``, with ``"SAME"`` and ``"VALID"`` the
    ``scipy.signal.convolve`` of these names (for an odd number of taps). A filter for each channel
    that is learned from the start is ``Conv(channels, size, groups=channels)``.

    Args:
      taps: numbers (size,), such as those of ``scipy.signal.firwin``.
      strides: an output for every so many steps.
      padding: as for ``Conv``: ``"CAUSAL"``, ``"SAME"``, ``"VALID"``, its other names, an int
        or (low, high).
      trainable: whether the taps are a parameter, which starts with these values.

    Shapes:
      x: (batch, time, ...), floating. y: (batch, time', ...), of the dtype of ``x``.
      params: taps (size,), if they are trainable.

    Raises:
      LayerError: for taps of another rank, and without padding for more taps than steps.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([[1.0, 2.0, 4.0]])
    >>> jl.FIRFilter([1.0, -1.0]).apply({}, {}, x)[0].tolist()
    [[1.0, 1.0, 2.0]]
    """
    values = coefficients("taps", taps)
    framing = Framing(len(values), strides, padding)

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        framing.window(x)
        arguments.floating(x)
        if not trainable:
            return {}

        def start(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
            return jnp.asarray(values, dtype)

        return initialize(key, x, taps=(start, values.shape))

    def run(params: Params, x: jax.Array, mask: jax.Array | None, has_context: bool) -> jax.Array:
        own = cast_like(params, x)["taps"] if trainable else jnp.asarray(values, x.dtype)
        x = framing.pad(x, mask, has_context)
        rows, steps, *others = x.shape
        channels = math.prod(others)
        kernel = jnp.broadcast_to(own[::-1, None, None], (len(values), 1, channels))
        y = conv(
            x.reshape(rows, steps, channels),
            kernel,
            strides=(strides,),
            padding=((0, 0),),
            dilation=(1,),
            groups=channels,
        )
        return y.reshape(rows, y.shape[1], *others)

    return windowed_layer(init, WindowedOp(framing.window, run))


def coefficients(name: str, value: Any, rank: int = 1) -> np.ndarray:
    """Numbers of an argument, float64.

    Raises:
      LayerError: for anything but real numbers of that rank, one at least.
    """
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        found = np.zeros(())
    if found.ndim != rank or not found.size or not np.isfinite(found).all():
        wanted = {1: "a list of numbers", 2: "rows of numbers"}[rank]
        raise LayerError(f"{name} must be {wanted}, got {format_short(value)}")
    return found
