"""Without a layer library: the perceptron as one writes it by hand, with optax."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp

from ...models.sizes import Perceptron
from ..optimizers import Optimizer
from ..step import Training
from ..weights import Weights, by_name
from .functional import Model, train


def mlp(size: Perceptron) -> Model:
    hidden = [f"dense_{i}" for i in range(len(size.features))]
    shapes = itertools.pairwise((size.inputs, *size.features, size.classes))
    draw = jax.nn.initializers.lecun_normal()

    def init(key: Any, x: Any) -> Any:
        params = {
            name: {"kernel": draw(jax.random.fold_in(key, i), shape), "bias": jnp.zeros(shape[1])}
            for i, (name, shape) in enumerate(zip([*hidden, "head"], shapes, strict=True))
        }
        return params, {}

    def apply(params: Any, state: Any, x: Any) -> Any:
        for name in hidden:
            x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
        return x @ params["head"]["kernel"] + params["head"]["bias"], state

    return Model(init, apply)


MODELS = {"mlp": mlp}


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    return train(MODELS[model](size), size, optimizer, weights, by_name())
