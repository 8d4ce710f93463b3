"""Equinox, with optax and ``eqx.filter_jit``."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ...models.equinox import MODELS
from ..optimizers import Optimizer
from ..step import Training
from ..weights import Arrays, Weights, batch, kernel_first, renamed, tree_weights
from .functional import count, cross_entropy, optax_optimizer

NAMES = {
    f"attend_{ours}": f"attend_{theirs}_proj"
    for ours, theirs in {
        "query": "query",
        "keys": "key",
        "values": "value",
        "out": "output",
    }.items()
}


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    module, state = eqx.nn.make_with_state(MODELS[model])(size, key=jax.random.key(0))
    params = eqx.filter(module, eqx.is_inexact_array)
    if weights is not None:
        static = eqx.filter(module, eqx.is_inexact_array, inverse=True)
        params = tree_weights(params, weights, layout)
        module = eqx.combine(params, static)
    tx = optax_optimizer(optimizer)

    @eqx.filter_jit(donate="all-except-first")
    def donating(data: Any, module: Any, state: Any, moments: Any) -> Any:
        x, labels = data

        @eqx.filter_value_and_grad(has_aux=True)
        def loss_of(module: Any, state: Any) -> Any:
            through = jax.vmap(module, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
            logits, state = through(x, state)
            return cross_entropy(logits, labels), state

        (loss, state), grads = loss_of(module, state)
        params = eqx.filter(module, eqx.is_inexact_array)
        updates, moments = tx.update(grads, moments, params)
        return eqx.apply_updates(module, updates), state, moments, loss

    x, labels = map(jnp.asarray, batch(size))
    data = (jnp.moveaxis(x, -1, 1) if x.ndim == 4 else x, labels)
    carry = (module, state, tx.init(params))
    return Training(DataLast(donating), carry, (data,), count(params), wait)


class DataLast:
    """The step with its carry first; ``filter_jit`` donates all arguments but the first."""

    def __init__(self, step: Any):
        self.step = step

    def __call__(self, module: Any, state: Any, moments: Any, data: Any) -> Any:
        return self.step(data, module, state, moments)

    def lower(self, module: Any, state: Any, moments: Any, data: Any) -> Any:
        return self.step.lower(data, module, state, moments)


def wait(results: Any) -> None:
    jax.block_until_ready(eqx.filter(results, eqx.is_array))


def layout(part: str, arrays: Arrays) -> Mapping[str, np.ndarray]:
    if "recurrent_kernel" in arrays:
        return {
            f"{part}/cell/weight_ih": arrays["kernel"].T,
            f"{part}/cell/weight_hh": arrays["recurrent_kernel"].T,
            f"{part}/cell/bias": arrays["bias"],
        }
    part = renamed(part, NAMES)
    weight = next(value for name, value in arrays.items() if name != "bias")
    named = {f"{part}/weight": kernel_first(weight) if "kernel" in arrays else weight}
    if "bias" in arrays:
        named[f"{part}/bias"] = arrays["bias"]
    return named
