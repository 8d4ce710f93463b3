"""Haiku, with optax."""

from collections.abc import Mapping
from typing import Any

import haiku as hk
import numpy as np

from ...models.haiku import MODELS
from ..optimizers import Optimizer
from ..step import Training
from ..weights import Arrays, Weights, renamed
from .functional import Model, train

LEAVES = {"kernel": "w", "bias": "b", "embedding": "embeddings"}
NAMES = {
    "attend_keys": "attend_key",
    "attend_values": "attend_value",
    "attend_out": "attend_linear",
}


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    pure = hk.without_apply_rng(hk.transform_with_state(MODELS[model](size)))
    return train(Model(pure.init, pure.apply), size, optimizer, weights, layout)


def layout(part: str, arrays: Arrays) -> Mapping[str, np.ndarray]:
    if "recurrent_kernel" in arrays:
        both = np.concatenate([arrays["kernel"], arrays["recurrent_kernel"]])
        i, f, g, o = np.split(arrays["bias"], 4)
        # It adds one to the forget gate itself.
        bias = np.concatenate([i, g, f - 1, o])
        return {f"{part}/linear/w": _igfo(both), f"{part}/linear/b": bias}
    if "scale" in arrays:
        return {f"{part}/scale": arrays["scale"], f"{part}/offset": arrays["bias"]}
    part = renamed(part, NAMES)
    return {f"{part}/{LEAVES[name]}": value for name, value in arrays.items()}


def _igfo(value: np.ndarray) -> np.ndarray:
    """Their order of the gates."""
    i, f, g, o = np.split(value, 4, axis=-1)
    return np.concatenate([i, g, f, o], axis=-1)
