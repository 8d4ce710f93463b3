"""IIRFilter and BiquadFilter: recursive filters, from the coefficients of a transfer function."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from ...base import arguments
from ...base.constructors import no_params, of_steps
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.receptive_field import CAUSAL
from ...base.sequence import Steps, join, split
from ...base.types import Carry, Params
from ...core.dtypes import at_least_float32
from ...core.signal.filters import Recursive, iir
from .base import SIGNAL
from .fir_filter import coefficients


@factory
def IIRFilter(numerator: Any, denominator: Any) -> Layer:
    """``a[0] y[t] = b[0] x[t] + b[1] x[t - 1] + ... - a[1] y[t - 1] - ...``, for each channel.

    It is ``scipy.signal.lfilter(b, a, x)``, computed in chunks by matrix products. Of high order
    rounding moves the poles of such a filter: ``BiquadFilter`` is then better.

    Args:
      numerator: b, numbers (size,).
      denominator: a, numbers (size,), the first of them not 0.

    Shapes:
      x: (batch, time, ...), floating. y: the same, of the dtype of ``x``. The carry of a stream is
      {"state": (batch, order, ...)}, float32 at least: ``zi`` of ``lfilter``.

    Raises:
      LayerError: for coefficients of another rank, and a denominator that begins with 0.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([[1.0, 0.0, 0.0]])
    >>> jl.IIRFilter([1.0], [1.0, -0.5]).apply({}, {}, x)[0].tolist()
    [[1.0, 0.5, 0.25]]
    """
    b, a = coefficients("numerator", numerator), coefficients("denominator", denominator)
    if a[0] == 0:
        raise LayerError("the first number of the denominator must not be 0")
    return _recursive([Recursive.of(b, a)], "state")


@factory
def BiquadFilter(sections: Any) -> Layer:
    """Second-order sections, one after the other: ``scipy.signal.sosfilt(sections, x)``.

    Args:
      sections: (sections, 6), b0, b1, b2, a0, a1, a2 of each, as of
        ``scipy.signal.butter(..., output="sos")``.

    Shapes:
      x: (batch, time, ...), floating. y: the same, of the dtype of ``x``. The carry of a stream is
      {"state_0": (batch, 2, ...), ...}, float32 at least: ``zi`` of ``sosfilt`` by section.

    Raises:
      LayerError: for an array of another shape, and an a0 of 0.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([[1.0, 0.0, 0.0]])
    >>> jl.BiquadFilter([[1.0, 0.0, 0.0, 1.0, -0.5, 0.0]]).apply({}, {}, x)[0].tolist()
    [[1.0, 0.5, 0.25]]
    """
    rows = coefficients("sections", sections, rank=2)
    if rows.shape[1] != 6 or not rows[:, 3].all():
        raise LayerError(
            f"sections must be (sections, 6) with a0 other than 0, got {rows.shape}",
            hint="scipy.signal.butter(4, 0.2, output='sos')",
        )
    return _recursive([Recursive.of(row[:3], row[3:]) for row in rows], "state_{}")


def _recursive(filters: list[Recursive], name: str) -> Layer:
    """The layer of filters one after the other."""

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        arguments.one_array(x, SIGNAL, least_rank=2)
        arguments.floating(x)
        return no_params(key, x)

    def start(params: Params, x: jax.ShapeDtypeStruct, capacity: int | None) -> Carry:
        wide = at_least_float32(x.dtype)
        return {
            name.format(i): jnp.zeros((x.shape[0], recursive.order, *x.shape[2:]), wide)
            for i, recursive in enumerate(filters)
            # Without poles and zeros there is nothing to remember.
            if recursive.order
        }

    # A padded step reads as zero, as for a convolution: what was before it fades away.
    def step(params: Params, carry: Carry | None, x: Steps) -> tuple[Steps, Carry]:
        values, mask = split(x)
        arguments.one_array(values, SIGNAL, least_rank=2)
        before = start(params, values, None) if carry is None else carry
        rows, steps, *others = values.shape
        y = values.reshape(rows, steps, math.prod(others))
        y, after = y.astype(at_least_float32(y.dtype)), {}
        for i, recursive in enumerate(filters):
            if not recursive.order:
                y = y * recursive.b[0]
                continue
            state = before[name.format(i)]
            y, last = iir(y, state.reshape(rows, recursive.order, y.shape[2]), recursive=recursive)
            after[name.format(i)] = last.reshape(state.shape)
        return join(y.reshape(values.shape).astype(values.dtype), mask), after

    return of_steps(init, start, step, lambda x: CAUSAL)
