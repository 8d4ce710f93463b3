"""The optimisers, by the names that they have everywhere."""

from typing import Any, NamedTuple


class Optimizer(NamedTuple):
    name: str
    learning_rate: float
    options: dict[str, Any]


SGD = Optimizer("sgd", 0.01, {"momentum": 0.9})
ADAM = Optimizer("adam", 1e-3, {})
ADAMW = Optimizer("adamw", 1e-3, {"weight_decay": 0.01})
