"""Training in Keras 3 on JAX.

A step is ``stateless_call`` and ``stateless_apply`` in a jitted function, its fastest way.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras

from ..optax_step import count
from ..sizes import Perceptron
from ..step import ADAM, Optimizer, Training
from ..weights import Weights, batch, fill
from . import PARTS, layout, require_jax
from .models import MODELS

OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}


def built(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Any:
    """The model with the weights, its optimiser and its loss."""
    require_jax()
    keras.utils.set_random_seed(0)
    module = MODELS[model](size)
    if weights is not None:
        # "lstm_0/lstm_cell/kernel": the cell has no name of its own elsewhere.
        own = {v.path.replace("/lstm_cell", ""): v for v in module.trainable_variables}
        shapes = {path: tuple(variable.shape) for path, variable in own.items()}
        for path, value in fill(weights, layout, shapes, PARTS).items():
            own[path].assign(value)
    make = getattr(keras.optimizers, OPTIMIZERS[optimizer.name])
    optim = make(optimizer.learning_rate, **optimizer.options)
    return module, optim, keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    module, optim, loss_function = built(model, size, optimizer, weights)
    optim.build(module.trainable_variables)

    def step(trained: Any, state: Any, moments: Any, x: Any, labels: Any) -> Any:
        def loss_of(trained: Any) -> Any:
            logits, new_state = module.stateless_call(trained, state, x, training=True)
            return loss_function(labels, logits), new_state

        (loss, state), grads = jax.value_and_grad(loss_of, has_aux=True)(trained)
        trained, moments = optim.stateless_apply(moments, grads, trained)
        return trained, state, moments, loss

    variables = (module.trainable_variables, module.non_trainable_variables, optim.variables)
    # Copies: the model must not keep arrays that are donated.
    carry = tuple([jnp.array(variable.value) for variable in some] for some in variables)
    data, step = tuple(map(jnp.asarray, batch(size))), jax.jit(step, donate_argnums=(0, 1, 2))
    return Training(step, carry, data, count(carry[0]), jax.block_until_ready)


def init(model: Any, size: Any) -> None:
    jax.block_until_ready([variable.value for variable in model(size).variables])


def fit_loop(size: Perceptron, weights: Weights, steps_per_call: int) -> Callable[..., Any]:
    """``compile`` and ``fit`` over arrays, with its default progress bar."""
    model, optim, loss = built("mlp", size, ADAM, weights)
    model.compile(optimizer=optim, loss=loss, steps_per_execution=steps_per_call)

    def loop(data: Any, every: int) -> list[float]:
        history = model.fit(data.x, data.labels, batch_size=size.batch, shuffle=False).history
        return list(map(float, history["loss"]))

    return loop
