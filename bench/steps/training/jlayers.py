"""jlayers, with optax."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import jlayers as jl

from ...models.jlayers import MODELS
from ..optimizers import Optimizer
from ..step import Training
from ..weights import Arrays, Weights, renamed
from .functional import Model, train


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    layer = MODELS[model](size)

    def apply(params: Any, state: Any, x: Any) -> Any:
        return layer.apply(params, state, x, train=True)

    return train(Model(layer.init, apply), size, optimizer, weights, layout)


def layout(part: str, arrays: Arrays) -> Mapping[str, np.ndarray]:
    # The attention written by hand cannot call a child "key".
    if hasattr(jl, "SelfAttention"):
        part = renamed(part, {"attend_keys": "attend_key", "attend_values": "attend_value"})
    return {f"{part}/{name}": value for name, value in arrays.items()}
