"""InverseSTFT: a signal from the spectra of its frames."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ...base import arguments
from ...base.arguments import Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.specs import format_spec
from ...core.dtypes import at_least_float32
from ...core.signal.spectrum import dual_window, frames_of_spectra, istft
from .base import Overlap, overlapped_layer
from .overlap_add import overlap_padding
from .stft import spectrum_of


@factory
def InverseSTFT(
    frame_length: Positive,
    *,
    strides: Positive | None = None,
    fft_length: Positive | None = None,
    window: Any = "hann",
    window_length: Positive | None = None,
    periodic: bool = True,
    padding: str = "VALID",
    scaling: str | None = None,
    length: Positive | None = None,
) -> Layer:
    """The signal of which the input has the spectra, the inverse of ``STFT`` (Griffin & Lim, 1984).

    Frames are multiplied with the window again, summed, and divided by the sum of the squared
    windows, which is the least squares solution for spectra of no signal. ``torch.istft(y, n_fft,
    hop)`` is ``InverseSTFT(n_fft, strides=hop, padding="CENTER")``.

    Args:
      frame_length, strides, fft_length, window, window_length, periodic, scaling: as for ``STFT``.
      padding: that of the ``STFT``. ``"VALID"``: all samples. ``"CENTER"``: without half a frame at
        both ends. ``"CAUSAL"``: ``strides`` samples for each frame, which streams; samples come
        back ``frame_length - 1`` later, divided by what all frames around them would sum to.
      length: of the signal, which is cut, or padded with zeros, to it.

    Shapes:
      x: (batch, frames, bins, ...), complex; or real with twice as many bins, ``"real_imag"`` of
      ``STFT``. y: (batch, time, ...), real.

    Raises:
      LayerError: for an input of another rank or number of bins, and arguments that ``STFT`` does
        not take; for ``length`` with ``"CAUSAL"``.

    >>> import jlayers as jl
    >>> layer = jl.InverseSTFT(400, strides=100, padding="CENTER", length=16000)
    >>> jl.out_spec(layer, jl.spec((8, 161, 201), "complex64")).shape
    (8, 16000)
    """
    spectrum = spectrum_of(
        frame_length, strides, fft_length, window, window_length, periodic, scaling
    )
    # The scale is undone: once by the window again, twice by the squares that divide.
    overlap = Overlap(lambda x: frame_length, spectrum.stride, overlap_padding(padding), length)
    if overlap.causal and length is not None:
        raise LayerError("length is for a whole signal, and padding='CAUSAL' for a stream")
    dual = dual_window(spectrum.window, spectrum.stride)
    bins = spectrum.bins

    def check(x: Any) -> None:
        arguments.one_array(x, "(batch, frames, bins, ...)", least_rank=3)
        arguments.floating(x)
        wanted = bins if jnp.issubdtype(x.dtype, jnp.complexfloating) else 2 * bins
        if x.shape[2] != wanted:
            raise LayerError(
                f"takes {bins} complex bins, or {2 * bins} real ones", got=format_spec(x)
            )

    def as_complex(x: jax.Array) -> jax.Array:
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            return x
        wide = x.astype(at_least_float32(x.dtype))
        return lax.complex(wide[:, :, :bins], wide[:, :, bins:])

    def real(y: jax.Array, x: jax.Array) -> jax.Array:
        return y if jnp.issubdtype(x.dtype, jnp.complexfloating) else y.astype(x.dtype)

    def frames_of(x: jax.Array) -> jax.Array:
        return real(frames_of_spectra(as_complex(x), spectrum, dual), x)

    def whole(x: jax.Array, mask: jax.Array | None) -> jax.Array:
        return real(istft(as_complex(x), mask, spectrum), x)

    return overlapped_layer(overlap, frames_of, whole, check)
