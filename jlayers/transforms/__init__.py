"""Transforms: a layer to a layer by path, whose pair stays pure, and which may be combined."""

from typing import TYPE_CHECKING

from ..combinators.modes import inference
from ..combinators.orthogonalize import orthogonalize_weights
from ..combinators.spectral_norm import spectral_norm
from ..combinators.standardize import standardize_weights
from ..combinators.weight_norm import weight_norm
from .averaging import ema
from .freezing import freeze
from .lora import dora, lora
from .merging import merge
from .pruning import magnitude_masks, prune
from .quantize import quantize, quantize_params
from .tying import tie

__all__ = [
    "dora",
    "ema",
    "freeze",
    "inference",
    "lora",
    "magnitude_masks",
    "merge",
    "orthogonalize_weights",
    "prune",
    "quantize",
    "quantize_params",
    "spectral_norm",
    "standardize_weights",
    "tie",
    "weight_norm",
]

if not TYPE_CHECKING:  # mypy shall not take every name for one that exists

    def __getattr__(name: str) -> object:
        from ..base.unknown import unknown_attribute

        raise unknown_attribute(__name__, name, __all__)


def __dir__() -> list[str]:
    return __all__
