"""Mel filters: triangles that sum the bins of a spectrum as the ear does."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Of Slaney's scale (1998): below 1000 Hz 3 mel for 200 Hz, above it 27 mel for a factor of 6.4.
_BREAK = 1000.0
_MEL_PER_HERTZ = 3 / 200
_MEL_OF_BREAK = _BREAK * _MEL_PER_HERTZ
_MEL_PER_E = 27 / np.log(6.4)


def _htk(hertz: np.ndarray) -> np.ndarray:
    return 2595.0 * np.log10(1.0 + hertz / 700.0)


def _htk_inverse(mel: np.ndarray) -> np.ndarray:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)


def _slaney(hertz: np.ndarray) -> np.ndarray:
    above = _MEL_OF_BREAK + np.log(np.maximum(hertz, _BREAK) / _BREAK) * _MEL_PER_E
    return np.where(hertz < _BREAK, hertz * _MEL_PER_HERTZ, above)


def _slaney_inverse(mel: np.ndarray) -> np.ndarray:
    above = _BREAK * np.exp((np.maximum(mel, _MEL_OF_BREAK) - _MEL_OF_BREAK) / _MEL_PER_E)
    return np.where(mel < _MEL_OF_BREAK, mel / _MEL_PER_HERTZ, above)


class _Scale(NamedTuple):
    mel: Callable[[np.ndarray], np.ndarray]
    hertz: Callable[[np.ndarray], np.ndarray]


SCALES = {"htk": _Scale(_htk, _htk_inverse), "slaney": _Scale(_slaney, _slaney_inverse)}
SLOPES = ("hertz", "mel")
NORMS = (None, "slaney")


def mel_filters(
    features: int,
    bins: int,
    sample_rate: float,
    *,
    lowest: float = 0.0,
    highest: float | None = None,
    scale: str = "htk",
    norm: str | None = None,
    slopes: str = "hertz",
) -> np.ndarray:
    """The matrix from ``bins`` of a spectrum to ``features`` of the mel scale.

    Args:
      bins: from 0 to half the sample rate, ``fft_length // 2 + 1``.
      sample_rate: in hertz.
      lowest, highest: edges of the first and the last filter, in hertz; up to half the sample rate
        by default.
      scale: ``"htk"``, 2595 log10(1 + f / 700), or ``"slaney"``, linear below 1000 Hz.
      norm: None for triangles of height 1, ``"slaney"`` for those of area 1 over hertz.
      slopes: in which unit they are straight: ``"hertz"`` as in librosa and torchaudio, ``"mel"``
        as in Keras and TensorFlow, where the bin of 0 Hz has no weight.

    Returns:
      (bins, features), float64.

    >>> mel_filters(2, 5, 8000.0).round(2).tolist()
    [[0.0, 0.0], [0.68, 0.32], [0.0, 0.91], [0.0, 0.45], [0.0, 0.0]]
    """
    to_mel, to_hertz = SCALES[scale]
    top = sample_rate / 2 if highest is None else highest
    places = np.linspace(0.0, sample_rate / 2, bins)
    first, last = to_mel(np.array([lowest, top]))
    mels = np.linspace(first, last, features + 2)
    corners = to_hertz(mels)
    edges = corners if slopes == "hertz" else mels
    at = (places if slopes == "hertz" else to_mel(places))[:, None]
    widths = np.diff(edges)
    rising = (at - edges[:-2]) / widths[:-1]
    falling = (edges[2:] - at) / widths[1:]
    filters: np.ndarray = np.maximum(0.0, np.minimum(rising, falling))
    if slopes == "mel":
        filters[0] = 0.0
    if norm == "slaney":
        filters *= 2.0 / (corners[2:] - corners[:-2])
    return filters
