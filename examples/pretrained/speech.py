"""Sound like speech, made of its parts: what the networks of speech are given."""

import numpy as np
from scipy.signal import lfilter

# The first three formants of vowels, in hertz.
VOWELS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
)


def speech(seconds: float, rate: int = 16000, *, pitch: float = 120.0, seed: int = 0) -> np.ndarray:
    """Syllables of a voice with some noise, and silence in between: float32 (samples,).

    Pulses of a falling and rising pitch go through resonances at the formants of a vowel for each
    syllable; some of them begin with a hiss.
    """
    rng = np.random.default_rng(seed)
    sound = np.zeros(int(seconds * rate))
    start = int(0.3 * rate)
    while start < len(sound):
        length = int(rng.uniform(0.12, 0.3) * rate)
        time = np.arange(length) / rate
        tone = pitch * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(1, 3) * time + rng.uniform(0, 6)))
        pulses = np.diff(np.floor(np.cumsum(tone) / rate), prepend=0.0)
        voice = pulses + 0.01 * rng.normal(size=length)
        for formant in VOWELS[rng.integers(len(VOWELS))]:
            radius, angle = np.exp(-np.pi * 90 / rate), 2 * np.pi * formant / rate
            voice = lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], voice)
        voice = voice / np.abs(voice).max() * np.hanning(length) ** 0.5
        if rng.random() < 0.3:
            hiss = np.diff(rng.normal(size=length // 3), prepend=0.0)
            voice[: length // 3] += 0.1 * hiss * np.hanning(length // 3)
        piece = sound[start : start + length]
        piece += 0.3 * voice[: len(piece)]
        # A word is a few syllables; behind it there is a pause.
        start += length + int((0.5 if rng.random() < 0.25 else 0.02) * rate)
    return (sound + 0.002 * rng.normal(size=len(sound))).astype("float32")
