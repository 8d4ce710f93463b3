"""Losses that optax does not have, or not with masks, weights and lengths.

Each is a pure function of predictions and labels, differentiable in the predictions. What optax
has (``optax.squared_error``, ``huber_loss``, ...) is averaged by ``weighted_mean``.
"""

from typing import TYPE_CHECKING

from .binary_cross_entropy import binary_cross_entropy
from .contrastive import info_nce
from .cross_entropy import cross_entropy
from .ctc import ctc
from .dice import dice
from .focal import focal
from .likelihood import gaussian_nll, poisson_nll
from .linear_cross_entropy import linear_cross_entropy
from .weighted_mean import weighted_mean

__all__ = [
    "binary_cross_entropy",
    "cross_entropy",
    "ctc",
    "dice",
    "focal",
    "gaussian_nll",
    "info_nce",
    "linear_cross_entropy",
    "poisson_nll",
    "weighted_mean",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from ..base.unknown import unknown_attribute

        raise unknown_attribute(__name__, name, __all__)
