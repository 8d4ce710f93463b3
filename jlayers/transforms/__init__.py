"""Transforms: a layer to a layer by path, whose pair stays pure, and which may be combined."""

from typing import TYPE_CHECKING

from ..combinators.modes import inference
from ..combinators.orthogonalize import orthogonalize_weights
from ..combinators.spectral_norm import spectral_norm
from ..combinators.standardize import standardize_weights
from ..combinators.weight_norm import weight_norm
from .audit import Audit, Cast, audit
from .averaging import ema
from .clip_gradients import clip_gradients
from .freezing import freeze
from .gradient_checkpoint import gradient_checkpoint
from .lora import dora, lora
from .merging import merge
from .precision import precision, without_precision
from .precision_rules import Precision
from .pruning import magnitude_masks, prune
from .quantize import quantize, quantize_params
from .stop_gradient import stop_gradient
from .tying import tie

__all__ = [
    "Audit",
    "Cast",
    "Precision",
    "audit",
    "clip_gradients",
    "dora",
    "ema",
    "freeze",
    "gradient_checkpoint",
    "inference",
    "lora",
    "magnitude_masks",
    "merge",
    "orthogonalize_weights",
    "precision",
    "prune",
    "quantize",
    "quantize_params",
    "spectral_norm",
    "standardize_weights",
    "stop_gradient",
    "tie",
    "weight_norm",
    "without_precision",
]

if not TYPE_CHECKING:  # mypy shall not take every name for one that exists

    def __getattr__(name: str) -> object:
        from ..base.unknown import unknown_attribute

        raise unknown_attribute(__name__, name, __all__)


def __dir__() -> list[str]:
    return __all__
