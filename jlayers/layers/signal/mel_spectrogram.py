"""MelSpectrogram: the power of a signal in bands of the mel scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ...base import arguments
from ...base.arguments import AboveZero, NonNegative, PaddingMode, Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.specs import format_short
from ...core.padding import ZEROS
from ...core.signal.mel import NORMS, SCALES, SLOPES, mel_filters
from ...core.signal.spectrum import stft
from .base import Framing, framed_layer
from .frame import FramePadding
from .stft import spectrum_of

LOGS: dict[str | None, Callable[[jax.Array], jax.Array]] = {
    None: lambda y: y,
    "natural": jnp.log,
    "db": lambda y: 10 * jnp.log10(y),
}


@factory
def MelSpectrogram(
    features: Positive,
    sample_rate: AboveZero,
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
    power: AboveZero = 2.0,
    lowest: NonNegative = 0.0,
    highest: AboveZero | None = None,
    scale: str = "htk",
    norm: str | None = None,
    slopes: str = "hertz",
    log: str | None = None,
    floor: AboveZero = 1e-10,
) -> Layer:
    """The spectrum of each frame, summed over triangles on the mel scale.

    With ``scale="slaney", norm="slaney"`` the filters are those of ``librosa.filters.mel``, with
    the defaults those of ``torchaudio``, with ``slopes="mel"`` those of Keras and TensorFlow.

    Args:
      features: how many triangles.
      sample_rate: samples for a second.
      frame_length, strides, fft_length, window, window_length, periodic: as for ``STFT``.
      padding, padding_mode, scaling: likewise.
      power: of the magnitude before it is summed: 2 for power, 1 for magnitude.
      lowest, highest: edges of the first and the last triangle, in hertz; up to half the sample
        rate by default.
      scale: ``"htk"``, 2595 log10(1 + f / 700), or ``"slaney"``, linear below 1000 Hz.
      norm: None for triangles of height 1, ``"slaney"`` for those of area 1.
      slopes: in which unit the triangles have straight sides, ``"hertz"`` or ``"mel"``.
      log: None, ``"natural"``, or ``"db"``, 10 log10, each of values of at least ``floor``.
      floor: the least value of which a logarithm is taken.

    Shapes:
      x: (batch, time, ...), floating. y: (batch, frames, features, ...), of the dtype of ``x``.

    Raises:
      LayerError: for an unknown scale, norm, slopes or log, edges in another order, and as for
        ``STFT``.

    >>> import jlayers as jl
    >>> layer = jl.MelSpectrogram(80, 16000, 400, strides=160, fft_length=512, log="natural")
    >>> jl.out_spec(layer, jl.spec((8, 16000))).shape
    (8, 98, 80)
    """
    spectrum = spectrum_of(
        frame_length, strides, fft_length, window, window_length, periodic, scaling
    )
    for name, value, known in (
        ("scale", scale, SCALES),
        ("norm", norm, NORMS),
        ("slopes", slopes, SLOPES),
        ("log", log, LOGS),
    ):
        if value not in known:
            raise LayerError(
                f"unknown {name} {format_short(value)}", expected=", ".join(map(repr, known))
            )
    top = sample_rate / 2 if highest is None else highest
    if not lowest < top <= sample_rate / 2:
        raise LayerError(
            f"triangles from {lowest:g} to {top:g} hertz",
            expected=f"edges in order, up to half the sample rate, {sample_rate / 2:g}",
        )
    filters = mel_filters(
        features,
        spectrum.bins,
        sample_rate,
        lowest=lowest,
        highest=highest,
        scale=scale,
        norm=norm,
        slopes=slopes,
    )

    def run(x: jax.Array) -> jax.Array:
        arguments.floating(x)
        arguments.real(x)
        y = stft(x, spectrum)
        # By squares where it can be: the root has no second derivative at 0.
        bins = y.real**2 + y.imag**2 if power == 2 else jnp.abs(y)
        if power not in (1, 2):
            bins = bins**power
        # In full precision: a filter of few bins is a large part of its sum.
        mel = jnp.einsum(
            "bts...,sf->btf...",
            bins,
            jnp.asarray(filters, bins.dtype),
            precision=jax.lax.Precision.HIGHEST,
        )
        if log is not None:
            mel = jnp.maximum(mel, jnp.asarray(floor, mel.dtype))
        return LOGS[log](mel).astype(x.dtype)

    return framed_layer(Framing(frame_length, spectrum.stride, padding, padding_mode), run)
