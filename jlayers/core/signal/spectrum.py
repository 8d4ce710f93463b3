"""Windows of a frame, mel filters, and spectra of frames and back.

Windows and filters are constants of a program: they are computed by NumPy, in float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..dtypes import at_least_float32
from .frames import frame, overlap_add

# Of the largest square: below it the sum of squared windows divides nothing.
_MIN_ENVELOPE = 1e-11


def window_values(
    window: Any, length: int, *, periodic: bool = True, size: int | None = None
) -> np.ndarray:
    """The window of a frame, float64.

    Args:
      window: a name, or a name with its parameters, as for ``scipy.signal.get_window``: ``"hann"``,
        ``("kaiser", 8.0)``; its values, which may be fewer than ``size``; or None for ones.
      length: of the window, where it is given by name.
      periodic: one period of a periodic function, for spectra; otherwise symmetric, for filters.
      size: of the frame, in the middle of which a shorter window is; by default its length.

    >>> window_values("hann", 4).tolist(), window_values("hann", 3, periodic=False).tolist()
    ([0.0, 0.5, 1.0, 0.5], [0.0, 1.0, 0.0])
    """
    if window is None:
        values = np.ones(length)
    elif isinstance(window, str | tuple):
        # Half a second, which only those pay who need it.
        from scipy import signal

        values = signal.get_window(window, length, fftbins=periodic)
    else:
        values = np.asarray(window, np.float64)
    missing = (len(values) if size is None else size) - len(values)
    return np.pad(values, (missing // 2, missing - missing // 2))


class Spectrum(NamedTuple):
    """How frames become spectra.

    Attributes:
      window: (frame length,), scaled.
      stride: samples from one frame to the next.
      fft_length: samples of a frame with the zeros behind it.
    """

    window: np.ndarray
    stride: int
    fft_length: int

    @property
    def bins(self) -> int:
        """Frequencies of a spectrum, from 0 to half the sampling rate."""
        return self.fft_length // 2 + 1


def stft(x: jax.Array, spectrum: Spectrum) -> jax.Array:
    """Spectra of the frames of a signal that is padded already.

    Args:
      x: (batch, time, ...), real.

    Returns:
      (batch, frames, bins, ...), complex, of float32 parts at least.
    """
    length = len(spectrum.window)
    frames = frame(x, length=length, stride=spectrum.stride)
    frames = frames.astype(at_least_float32(x.dtype))
    return jnp.fft.rfft(_times_window(frames, spectrum.window), spectrum.fft_length, axis=2)


def frames_of_spectra(y: jax.Array, spectrum: Spectrum, dual: np.ndarray) -> jax.Array:
    """The frames, times the window ``dual``, whose spectra are ``y``.

    Args:
      y: (batch, frames, bins, ...), complex.

    Returns:
      (batch, frames, frame length, ...), real.
    """
    frames = jnp.fft.irfft(y, spectrum.fft_length, axis=2)
    return _times_window(frames[:, :, : len(dual)], dual)


def istft(y: jax.Array, mask: jax.Array | None, spectrum: Spectrum) -> jax.Array:
    """The signal of which ``y`` are the spectra: the least squares solution (Griffin & Lim, 1984).

    Args:
      y: (batch, frames, bins, ...), complex.
      mask: bools (batch, frames), which of them there are; all where it is None.

    Returns:
      (batch, (frames - 1) * stride + frame length, ...), real.
    """
    frames = frames_of_spectra(y, spectrum, spectrum.window)
    total = overlap_add(frames, stride=spectrum.stride)
    valid = jnp.ones((1, y.shape[1]), bool) if mask is None else mask
    squares = jnp.asarray(spectrum.window**2, total.dtype)
    each = valid[..., None].astype(total.dtype) * squares[None, None]
    envelope = overlap_add(each, stride=spectrum.stride)
    # Samples that no window reaches stay zero.
    least = _MIN_ENVELOPE * float((spectrum.window**2).max())
    envelope = jnp.where(envelope > least, envelope, jnp.ones_like(envelope))
    envelope = envelope.reshape(*envelope.shape, *(1,) * (total.ndim - 2))
    return total / jnp.broadcast_to(envelope, total.shape)


def dual_window(window: np.ndarray, stride: int) -> np.ndarray:
    """The window for which frames add up to the signal, where all of them are there."""
    blocks = -(-len(window) // stride)
    padded = np.pad(window, (0, blocks * stride - len(window)))
    envelope = (padded.reshape(blocks, stride) ** 2).sum(0)
    least = _MIN_ENVELOPE * (window**2).max()
    envelope = np.tile(np.where(envelope > least, envelope, 1.0), blocks)
    dual: np.ndarray = window / envelope[: len(window)]
    return dual


def _times_window(frames: jax.Array, window: np.ndarray) -> jax.Array:
    shape = (1, 1, len(window), *(1,) * (frames.ndim - 3))
    values = jnp.asarray(window, frames.dtype).reshape(shape)
    return frames * jnp.broadcast_to(values, frames.shape)
