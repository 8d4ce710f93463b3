"""Flax NNX: ``nnx.jit`` over the model and its optimiser, changed in place."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ...models.nnx import MODELS
from ..optimizers import Optimizer
from ..step import Training
from ..weights import Arrays, Weights, batch, renamed, tree_weights
from .functional import count, cross_entropy, optax_optimizer
from .linen import NAMES


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    module = MODELS[model](size, rngs=nnx.Rngs(0))
    module.train()
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    if weights is not None:
        nnx.update(module, nnx.State(tree_weights(params, weights, layout)))
    optim = nnx.Optimizer(module, optax_optimizer(optimizer), wrt=nnx.Param)

    @nnx.jit(donate_argnums=(0, 1))
    def step(module: Any, optim: Any, x: Any, labels: Any) -> Any:
        def loss_of(module: Any) -> Any:
            return cross_entropy(module(x), labels)

        loss, grads = nnx.value_and_grad(loss_of)(module)
        optim.update(module, grads)
        return (loss,)

    data = (module, optim, *map(jnp.asarray, batch(size)))

    def wait(results: Any) -> None:
        jax.block_until_ready((results, nnx.state(module)))

    return Training(step, (), data, count(params), wait)


def layout(part: str, arrays: Arrays) -> Mapping[str, np.ndarray]:
    if "recurrent_kernel" in arrays:
        return {
            f"{part}/cell/dense_i/kernel": arrays["kernel"],
            f"{part}/cell/dense_h/kernel": arrays["recurrent_kernel"],
            f"{part}/cell/dense_h/bias": arrays["bias"],
        }
    part = renamed(part, NAMES)
    return {f"{part}/{name}": value for name, value in arrays.items()}
