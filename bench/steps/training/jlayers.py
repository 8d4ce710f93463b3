"""jlayers, with optax."""

from typing import Any

from ...models.jlayers import MODELS
from ..optimizers import Optimizer
from ..step import Training
from ..weights import Weights, by_name
from .functional import Model, train


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    layer = MODELS[model](size)

    def apply(params: Any, state: Any, x: Any) -> Any:
        return layer.apply(params, state, x, train=True)

    return train(Model(layer.init, apply), size, optimizer, weights, by_name())
