"""STFT: the spectra of overlapping frames of a signal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...base import arguments
from ...base.arguments import PaddingMode, Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.specs import format_short
from ...core.padding import ZEROS
from ...core.signal.spectrum import Spectrum, stft, window_values
from .base import Framing, framed_layer
from .frame import FramePadding

OUTPUTS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "complex": lambda y: y,
    "real_imag": lambda y: jnp.concatenate([y.real, y.imag], 2),
    "magnitude": jnp.abs,
    "power": lambda y: y.real**2 + y.imag**2,
}
SCALINGS: dict[str | None, Callable[[np.ndarray, int], float]] = {
    None: lambda window, fft_length: 1.0,
    "ortho": lambda window, fft_length: fft_length**-0.5,
    "spectrum": lambda window, fft_length: 1 / np.abs(window).sum(),
    "density": lambda window, fft_length: 1 / np.sqrt((window**2).sum()),
}


@factory
def STFT(
    frame_length: Positive,
    *,
    strides: Positive | None = None,
    fft_length: Positive | None = None,
    window: Any = "hann",
    window_length: Positive | None = None,
    periodic: bool = True,
    padding: FramePadding = "VALID",
    padding_mode: PaddingMode = ZEROS,
    scaling: str | None = None,
    output: str = "complex",
) -> Layer:
    """The short-time Fourier transform: the spectrum of each frame of a signal, times a window.

    ``torch.stft(x, n_fft, hop, win_length)`` is ``STFT(n_fft, strides=hop,
    window_length=win_length, padding="CENTER", padding_mode="reflect")``;
    ``tf.signal.stft`` and Keras' ``STFTSpectrogram`` have zeros behind the frame, ``fft_length``.

    Args:
      frame_length: steps of a frame.
      strides: steps from one frame to the next; a quarter of a frame by default.
      fft_length: of the transform, with zeros behind the frame; ``frame_length`` by default.
      window: a name, or a name with parameters, of ``scipy.signal.get_window``: ``"hann"``,
        ``"hamming"``, ``("kaiser", 8.0)``; None for none; or its values, in the middle of the frame
        where they are fewer.
      window_length: of a window given by name, in the middle of the frame.
      periodic: whether such a window is one period (as in PyTorch, librosa), or symmetric.
      padding, padding_mode: as for ``Frame``.
      scaling: ``"ortho"`` divides by the root of ``fft_length`` (``normalized`` of PyTorch),
        ``"spectrum"`` by the sum of the window, ``"density"`` by the root of that of its squares.
      output: ``"complex"``, ``"magnitude"``, ``"power"`` (the square of it), or ``"real_imag"``,
        the real parts of all bins and the imaginary ones behind them.

    Shapes:
      x: (batch, time, ...), floating. y: (batch, frames, fft_length // 2 + 1, ...), twice as many
      for ``"real_imag"``; of the dtype of ``x``, or complex of at least 64 bits.

    Raises:
      LayerError: for an unknown window, scaling or output, a window longer than the frame, a
        frame longer than ``fft_length`` or than the padded signal, and complex input.

    >>> import jlayers as jl
    >>> layer = jl.STFT(400, strides=160, fft_length=512, output="power")
    >>> jl.out_spec(layer, jl.spec((8, 16000))).shape
    (8, 98, 257)
    """
    spectrum = spectrum_of(
        frame_length, strides, fft_length, window, window_length, periodic, scaling
    )
    if output not in OUTPUTS:
        raise LayerError(
            f"unknown output {format_short(output)}", expected=", ".join(map(repr, OUTPUTS))
        )

    def run(x: jax.Array) -> jax.Array:
        arguments.floating(x)
        arguments.real(x)
        y = OUTPUTS[output](stft(x, spectrum))
        return y if output == "complex" else y.astype(x.dtype)

    return framed_layer(Framing(frame_length, spectrum.stride, padding, padding_mode), run)


def spectrum_of(
    frame_length: int,
    strides: int | None,
    fft_length: int | None,
    window: Any,
    window_length: int | None,
    periodic: bool,
    scaling: str | None,
) -> Spectrum:
    """The arguments of a transform, checked."""
    size = fft_length or frame_length
    if size < frame_length:
        raise LayerError(f"fft_length {size} is less than frame_length {frame_length}")
    if scaling not in SCALINGS:
        raise LayerError(
            f"unknown scaling {format_short(scaling)}", expected=", ".join(map(repr, SCALINGS))
        )
    known = None if window is None or isinstance(window, str | tuple) else np.shape(window)
    if known is not None and (len(known) != 1 or window_length is not None):
        raise LayerError(
            "window must be a name, or values (window_length,) without window_length",
            got=format_short(window),
        )
    length = known[0] if known else (window_length or frame_length)
    if length > frame_length:
        raise LayerError(f"a window of {length} is longer than a frame of {frame_length}")
    try:
        values = window_values(window, length, periodic=periodic, size=frame_length)
    except (ValueError, TypeError) as error:
        raise LayerError(
            f"unknown window {format_short(window)}",
            expected="a window of scipy.signal.get_window, its values, or None",
            got=str(error),
        ) from None
    scale = SCALINGS[scaling](values, size)
    return Spectrum(values * scale, strides or max(frame_length // 4, 1), size)
