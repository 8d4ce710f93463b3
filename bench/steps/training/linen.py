"""Flax linen, with optax."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...models.linen import MODELS
from ..optimizers import Optimizer
from ..step import Training
from ..weights import Arrays, Weights, renamed
from .functional import Model, train

NAMES = {"attend_keys": "attend_key", "attend_values": "attend_value"}


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    module = MODELS[model](size)

    def init(key: Any, x: Any) -> Any:
        variables = module.init(key, x)
        return variables["params"], variables.get("batch_stats", {})

    def apply(params: Any, state: Any, x: Any) -> Any:
        if not state:
            return module.apply({"params": params}, x), state
        y, changed = module.apply(
            {"params": params, "batch_stats": state}, x, mutable=["batch_stats"]
        )
        return y, changed["batch_stats"]

    return train(Model(init, apply), size, optimizer, weights, layout)


def layout(part: str, arrays: Arrays) -> Mapping[str, np.ndarray]:
    if "recurrent_kernel" in arrays:
        gates = {
            ("i", "kernel"): "kernel",
            ("h", "kernel"): "recurrent_kernel",
            ("h", "bias"): "bias",
        }
        return {
            f"{part}/{side}{gate}/{name}": piece
            for (side, name), ours in gates.items()
            for gate, piece in zip("ifgo", np.split(arrays[ours], 4, axis=-1), strict=True)
        }
    part = renamed(part, NAMES)
    return {f"{part}/{name}": value for name, value in arrays.items()}
