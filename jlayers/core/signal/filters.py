"""Linear filters of a signal: recursive ones in chunks, and rational changes of the rate.

A recursive filter (IIR) keeps a state of as many numbers as it has poles, here that of the
transposed direct form II, which is scipy's. Step by step it would be a loop over samples. In
chunks, a chunk's outputs are its samples times the impulse response, plus the state before it times
powers of one matrix: two matrix products for all chunks, and a loop over chunks alone.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..conv.conv import conv
from ..dispatch import compiled_when_eager
from ..dtypes import at_least_float32, is_symbolic

# Samples of a chunk: the loop is as much shorter, and the products as much larger.
_CHUNK = 64


class Recursive(NamedTuple):
    """``a[0] y[t] = b[0] x[t] + b[1] x[t - 1] + ... - a[1] y[t - 1] - ...``

    Attributes:
      b, a: coefficients, as many of each, with a[0] = 1.
    """

    b: tuple[float, ...]
    a: tuple[float, ...]

    @classmethod
    def of(cls, b: np.ndarray, a: np.ndarray) -> Recursive:
        """Of any number of each, and any ``a[0]`` but 0."""
        count = max(len(b), len(a))
        padded = (np.pad(part / a[0], (0, count - len(part))) for part in (b, a))
        return cls(*(tuple(part.tolist()) for part in padded))

    @property
    def order(self) -> int:
        """Numbers of the state."""
        return len(self.b) - 1


@functools.lru_cache(64)
def _matrices(recursive: Recursive, count: int) -> tuple[np.ndarray, ...]:
    """Of ``count`` samples: (impulse response, state to outputs, samples to state, state to state).

    Each is multiplied from the left, by samples or states as columns.
    """
    order = recursive.order
    b, a = np.array(recursive.b), np.array(recursive.a)
    step = np.eye(order, k=1)
    step[:, 0] -= a[1:]
    given = b[1:] - a[1:] * b[0]
    powers = [np.eye(order)]
    for _ in range(count):
        powers.append(powers[-1] @ step)
    response = [b[0], *(power[0] @ given for power in powers[: count - 1])]
    outputs = np.zeros((count, count))
    for t in range(count):
        outputs[t, : t + 1] = response[t::-1]
    from_state = np.stack([power[0] for power in powers[:count]])
    to_state = np.stack([power @ given for power in powers[count - 1 :: -1]], 1)
    return outputs, from_state, to_state, powers[count]


@compiled_when_eager("recursive")
def iir(x: jax.Array, state: jax.Array, *, recursive: Recursive) -> tuple[jax.Array, jax.Array]:
    """A recursive filter along time.

    Args:
      x: (batch, time, channels).
      state: (batch, order, channels), before the first sample: ``zi`` of ``scipy.signal.lfilter``.

    Returns:
      ((batch, time, channels), the state after the last sample), of the dtype of ``state``.
    """
    x = x.astype(state.dtype)
    if is_symbolic(x.shape[1]):  # which has no number of chunks
        return _by_scan(x, state, recursive)
    whole, rest = divmod(x.shape[1], _CHUNK)
    parts = []
    if whole:
        chunks = x[:, : whole * _CHUNK].reshape(x.shape[0], whole, _CHUNK, x.shape[2])
        y, state = _chunks(chunks, state, recursive)
        parts.append(y.reshape(x.shape[0], whole * _CHUNK, x.shape[2]))
    if rest or not whole:
        chunk = x[:, whole * _CHUNK :]
        if rest:
            y, state = _chunks(chunk[:, None], state, recursive)
            chunk = y[:, 0]
        parts.append(chunk)
    return (parts[0] if len(parts) == 1 else lax.concatenate(parts, 1)), state


def _chunks(x: jax.Array, state: jax.Array, recursive: Recursive) -> tuple[jax.Array, jax.Array]:
    """Chunks (batch, count, samples, channels), and the state before and after them."""
    own, from_state, to_state, across = (
        jnp.asarray(matrix, x.dtype) for matrix in _matrices(recursive, x.shape[2])
    )
    times = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    given = times("ns,bmsc->mbnc", to_state, x)

    def step(state: jax.Array, given: jax.Array) -> tuple[jax.Array, jax.Array]:
        return times("nk,bkc->bnc", across, state) + given, state

    if x.shape[1] == 1:
        after, before = step(state, given[0])
        before = before[None]
    else:
        after, before = lax.scan(step, state, given)
    y = times("ts,bmsc->bmtc", own, x) + times("tn,mbnc->bmtc", from_state, before)
    return y, after


def _by_scan(x: jax.Array, state: jax.Array, recursive: Recursive) -> tuple[jax.Array, jax.Array]:
    def step(state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, state = _chunks(x[:, None, None], state, recursive)
        return state, y[:, 0, 0]

    after, y = lax.scan(step, state, jnp.swapaxes(x, 0, 1))
    return jnp.swapaxes(y, 0, 1), after


class Rate(NamedTuple):
    """A change of the sampling rate by ``up / down``, as phases of one filter.

    Output ``up * q + p`` is the sum of ``kernel[k, p] * x[down * q + k - low]`` over k.

    Attributes:
      kernel: (taps, up).
      up, down: without a common factor.
      low: samples before the first one that its outputs read.
    """

    kernel: np.ndarray
    up: int
    down: int
    low: int

    @classmethod
    def of(cls, taps: np.ndarray, up: int, down: int) -> Rate:
        """Of a filter at ``up`` times the rate, in the middle of which an output lies."""
        half = (len(taps) - 1) // 2
        # Output m lies at down * m at the higher rate, and reads there from - half to + half.
        reach = half // up + 1
        width = (down * (up - 1)) // up + 1 + 2 * reach
        kernel = np.zeros((width, up))
        for p in range(up):
            for k in range(width):
                at = half + down * p - (k - reach) * up
                if 0 <= at < len(taps):
                    kernel[k, p] = taps[at]
        used = np.flatnonzero(kernel.any(1))
        first, last = (used[0], used[-1]) if len(used) else (0, 0)
        return cls(kernel[first : last + 1], up, down, int(reach - first))

    def size(self, steps: int) -> int:
        """Outputs for so many samples: ``ceil(steps * up / down)``."""
        return -(-steps * self.up // self.down)


def resample(x: jax.Array, rate: Rate) -> jax.Array:
    """The signal at another rate; beyond its ends it is zero.

    Args:
      x: (batch, time, channels).

    Returns:
      (batch, ceil(time * up / down), channels), of the dtype of ``x``, summed in float32 at least.
    """
    wide = at_least_float32(x.dtype)
    # No output lies behind the last sample, so this is as far as one reads.
    high = max(len(rate.kernel) - 1 - rate.low, 0)
    # Channels as another axis of an image with one channel: all have the same filter. Its phases
    # are the channels of the result.
    y = conv(
        x.astype(wide)[..., None],
        jnp.asarray(rate.kernel, wide)[:, None, None],
        strides=(rate.down, 1),
        padding=((rate.low, high), (0, 0)),
        dilation=(1, 1),
    )
    rows, turns, channels, up = y.shape
    y = jnp.swapaxes(y, 2, 3).reshape(rows, turns * up, channels)
    return y[:, : rate.size(x.shape[1])].astype(x.dtype)


def resampling_taps(up: int, down: int, window: str | tuple[str, float]) -> np.ndarray:
    """The low-pass filter of ``scipy.signal.resample_poly``."""
    from scipy import signal

    most = max(up, down)
    return signal.firwin(20 * most + 1, 1.0 / most, window=window) * up  # type: ignore[no-any-return]


def lowest_terms(up: int, down: int) -> tuple[int, int]:
    """The same ratio without a common factor."""
    common = math.gcd(up, down)
    return up // common, down // common
