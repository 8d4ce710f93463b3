"""Resemblyzer 0.1.4: a vector for a voice, from its legacy PyTorch checkpoint.

``encoder`` is the network, from frames of a mel spectrogram; ``mel`` makes those of a recording.
``results`` runs the network beside the PyTorch module of the package.
"""

from collections.abc import Iterator

import jax
import numpy as np
import torch

import jlayers as jl

from .speech import speech
from .wheels import Result, largest_difference, path

# Frames of 25 ms, one every 10 ms, in 40 bands: as librosa makes them for the package.
mel = jl.MelSpectrogram(
    40, 16000, 400, strides=160, padding="CENTER", scale="slaney", norm="slaney"
)
encoder = jl.serial(
    *(jl.LSTM(256), jl.LSTM(256), jl.LSTM(256, return_sequences=False)),
    *(jl.Dense(256), jax.nn.relu, jl.UnitNorm()),
)
# The checkpoint is that of a training: beside the weights are two of its loss. What Adam has there
# is left out without a rule.
RULES = ("model_state.similarity_* ->",)


def load() -> tuple[dict, dict]:
    """The parameters and the state of ``encoder``."""
    arrays = jl.interop.read(path("resemblyzer", "pretrained.pt"))
    return jl.interop.match(encoder, jl.spec((1, 160, 40)), arrays, rules=RULES).load()


class VoiceEncoder(torch.nn.Module):
    """The module of the package, whose own file imports librosa and webrtcvad."""

    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = torch.nn.Linear(256, 256)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        _, (hidden, _) = self.lstm(mels)
        embeds = self.linear(hidden[-1]).relu()
        return embeds / torch.norm(embeds, dim=1, keepdim=True)


def original() -> VoiceEncoder:
    """With the weights of the checkpoint."""
    file, module = path("resemblyzer", "pretrained.pt"), VoiceEncoder()
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["model_state"], strict=False)
    return module.eval()


def utterances(pitches: tuple[float, ...] = (90.0, 130.0, 210.0)) -> np.ndarray:
    """1.6 s of voices of several pitches, as mel spectrograms (batch, 160, 40)."""
    sounds = np.stack([speech(1.6, pitch=pitch, seed=i) for i, pitch in enumerate(pitches)])
    return np.array(mel.apply({}, {}, sounds)[0][:, :160])


def results() -> Iterator[Result]:
    """Vectors of voices, of our network and of theirs."""
    params, state = load()
    mels = utterances()
    ours, _ = jax.jit(encoder.apply)(params, state, mels)
    with torch.no_grad():
        theirs = original()(torch.from_numpy(mels))
    yield Result(
        "Resemblyzer, pretrained.pt",
        "torch",
        f"{len(mels)} synthetic voices of 1.6 s",
        *largest_difference([ours], [theirs]),
    )
