"""Resample: a signal at another sampling rate."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np

from ...base import arguments
from ...base.arguments import Positive
from ...base.constructors import no_params, pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.receptive_field import ReceptiveField
from ...base.sequence import Steps, join, split
from ...base.sequence_mode import SequenceMode
from ...base.types import Params
from ...core.signal.filters import Rate, lowest_terms, resample, resampling_taps
from .base import SIGNAL
from .fir_filter import coefficients


@factory
def Resample(
    up: Positive,
    down: Positive = 1,
    *,
    window: str | tuple[str, float] = ("kaiser", 5.0),
    taps: Any = None,
) -> Layer:
    """The signal at ``up / down`` times its rate: ``scipy.signal.resample_poly(x, up, down)``.

    ``Resample(1, 3)`` is a third of the rate, with a low-pass filter before; ``Downsample(3)`` is
    without one.

    Args:
      up, down: the ratio, of which common factors are cancelled.
      window: of the low-pass filter of ``20 * max(up, down) + 1`` taps, as for
        ``scipy.signal.firwin``.
      taps: another filter, at ``up`` times the rate and multiplied by ``up`` already, with an odd
        number of taps: the one in the middle meets the output.

    Shapes:
      x: (batch, time, ...), floating. y: (batch, ceil(time * up / down), ...), of the dtype of
      ``x``.

    A row of n valid steps of a ``Sequence`` has ceil(n * up / down) valid outputs, and reads zeros
    beyond its ends.

    >>> import jlayers as jl
    >>> jl.out_spec(jl.Resample(160, 441), jl.spec((2, 44100, 1))).shape
    (2, 16000, 1)
    """
    ratio = lowest_terms(up, down)
    if taps is not None:
        own = coefficients("taps", taps)
        if not own.any():
            raise LayerError("taps must not all be zero")
    elif ratio == (1, 1):  # nothing is to be filtered
        own = coefficients("taps", [1.0])
    else:
        own = resampling_taps(*ratio, window)
    rate = Rate.of(own, *ratio)

    def apply(params: Params, x: Steps) -> Steps:
        values, mask = split(x)
        arguments.one_array(values, SIGNAL, least_rank=2)
        arguments.floating(values)
        rows, steps, *others = values.shape
        y = resample(values.reshape(rows, steps, math.prod(others)), rate)
        y = y.reshape(rows, y.shape[1], *others)
        if mask is not None:
            # Output m lies at step m * down / up, and is there if that step, or the one before, is.
            places = jnp.arange(y.shape[1]) * rate.down // rate.up
            mask = jnp.take(mask, places, axis=1)
        return join(y, mask)

    def receptive_field(x: Any) -> ReceptiveField:
        half, one = (len(own) - 1) // 2, Fraction(1, rate.up)
        # The outermost taps of a windowed sinc are zero but for rounding.
        (used,) = np.nonzero(np.abs(own) > 1e-12 * np.abs(own).max())
        past, future = int(used[-1]) - half, half - int(used[0])
        return ReceptiveField().compose(ReceptiveField(one * rate.down, one * past, one * future))

    return pure(
        no_params,
        apply,
        sequence_mode=SequenceMode("whole", receptive_field),
        stream="its filter reaches later steps",
    )
