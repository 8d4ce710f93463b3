"""Training in Flax linen, with optax."""

from typing import Any

import jax
import jax.numpy as jnp

from ..optax_step import Model, cross_entropy, optax_optimizer, train
from ..sizes import Perceptron
from ..step import ADAM, Loop, Optimizer, Training
from ..weights import Weights
from . import layout
from .models import MODELS


def pair(model: str, size: Any) -> Model:
    module = MODELS[model](size)

    def init(key: Any, x: Any) -> Any:
        variables = module.init(key, x)
        return variables["params"], variables.get("batch_stats", {})

    def apply(params: Any, state: Any, x: Any) -> Any:
        if not state:
            return module.apply({"params": params}, x), state
        variables = {"params": params, "batch_stats": state}
        y, changed = module.apply(variables, x, mutable=["batch_stats"])
        return y, changed["batch_stats"]

    return Model(init, apply)


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    return train(pair(model, size), size, optimizer, weights, layout)


def init(model: Any, size: Any) -> None:
    x = jnp.zeros((size.batch, size.image, size.image, 3))
    # One program: without jit it computes the layers too, and takes longer.
    jax.block_until_ready(jax.jit(model(size).init)(jax.random.key(0), x))


def documented_loop(size: Perceptron, weights: Weights) -> Loop:
    """https://flax-linen.readthedocs.io, "Getting started": a ``TrainState``, a jitted step."""
    from flax.training.train_state import TrainState

    apply, params = MODELS["mlp"](size).apply, training("mlp", size, ADAM, weights).carry[0]
    state: Any = TrainState.create(apply_fn=apply, params=params, tx=optax_optimizer(ADAM))

    @jax.jit
    def train_step(state: Any, x: Any, labels: Any) -> Any:
        def loss_fn(params: Any) -> Any:
            return cross_entropy(state.apply_fn({"params": params}, x), labels)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    return Loop(train_step, state)
