"""Training without a layer library, with optax."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from ..optax_step import cross_entropy, train
from ..sizes import Perceptron
from ..step import ADAM, Loop, Optimizer, Training
from ..weights import Weights
from .models import MODELS, mlp


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    return train(MODELS[model](size), size, optimizer, weights)


def mlp_step(tx: optax.GradientTransformation) -> Callable[..., Any]:
    """A hand-written step: (params, moments, x, labels) to (params, moments, loss)."""

    def step(params: Any, moments: Any, x: Any, labels: Any) -> Any:
        def loss_of(params: Any) -> Any:
            return cross_entropy(mlp(params, x), labels)

        loss, gradient = jax.value_and_grad(loss_of)(params)
        updates, moments = tx.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    return jax.jit(step, donate_argnums=(0, 1))


def documented_loop(size: Perceptron, weights: Weights) -> Loop:
    """A loop written by hand: jitted, donating, its loss read every few steps."""
    made = training("mlp", size, ADAM, weights)

    def step(carry: Any, x: Any, labels: Any) -> Any:
        *carry, loss = made.step(*carry, x, labels)
        return carry, loss

    return Loop(step, made.carry)
