"""Keras 3 on JAX: ``stateless_call`` and ``stateless_apply`` in a jitted step, its fastest way."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from ...models.keras import MODELS
from ..optimizers import Optimizer
from ..step import Training, Unavailable
from ..weights import Arrays, Weights, batch, fill, renamed
from .functional import count

LEAVES = {"scale": "gamma", "bias": "beta", "embedding": "embeddings"}
NAMES = {
    "attend_keys": "attend_key",
    "attend_values": "attend_value",
    "attend_out": "attend_attention_output",
}


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    if keras.backend.backend() != "jax":
        raise Unavailable("keras was imported with another backend; set KERAS_BACKEND=jax")
    keras.utils.set_random_seed(0)
    module = MODELS[model](size)
    if weights is not None:
        own = {variable.path: variable for variable in module.trainable_variables}
        filled = fill(weights, layout, {path: tuple(own[path].shape) for path in own})
        for path, value in filled.items():
            own[path].assign(value)
    make = {
        "sgd": keras.optimizers.SGD,
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
    }
    optim = make[optimizer.name](optimizer.learning_rate, **optimizer.options)
    optim.build(module.trainable_variables)
    loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def step(trained: Any, state: Any, moments: Any, x: Any, labels: Any) -> Any:
        def loss_of(trained: Any) -> Any:
            logits, new_state = module.stateless_call(trained, state, x, training=True)
            return loss_function(labels, logits), new_state

        (loss, state), grads = jax.value_and_grad(loss_of, has_aux=True)(trained)
        trained, moments = optim.stateless_apply(moments, grads, trained)
        return trained, state, moments, loss

    variables = (module.trainable_variables, module.non_trainable_variables, optim.variables)
    # Copies: what is donated must not go on living in the model.
    carry = tuple([jnp.array(variable.value) for variable in some] for some in variables)
    data = tuple(map(jnp.asarray, batch(size)))
    return Training(
        jax.jit(step, donate_argnums=(0, 1, 2)), carry, data, count(carry[0]), jax.block_until_ready
    )


def layout(part: str, arrays: Arrays) -> Mapping[str, np.ndarray]:
    if "recurrent_kernel" in arrays:
        return {f"{part}/lstm_cell/{name}": value for name, value in arrays.items()}
    if "kernel" in arrays:
        part = renamed(part, NAMES)
        return {f"{part}/{name}": value for name, value in arrays.items()}
    return {f"{part}/{LEAVES[name]}": value for name, value in arrays.items()}
