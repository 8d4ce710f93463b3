"""Training in Flax NNX: ``nnx.jit`` over the model and its optimiser, changed in place."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ..optax_step import count, cross_entropy, optax_optimizer
from ..sizes import Perceptron
from ..step import ADAM, Loop, Optimizer, Training
from ..weights import Weights, batch, filled_tree
from . import layout
from .models import MODELS


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    module = MODELS[model](size, rngs=nnx.Rngs(0))
    module.train()
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    if weights is not None:
        nnx.update(module, nnx.State(filled_tree(params, weights, layout)))
    optim = nnx.Optimizer(module, optax_optimizer(optimizer), wrt=nnx.Param)

    @nnx.jit(donate_argnums=(0, 1))
    def step(module: Any, optim: Any, x: Any, labels: Any) -> Any:
        def loss_of(module: Any) -> Any:
            return cross_entropy(module(x), labels)

        loss, grads = nnx.value_and_grad(loss_of)(module)
        optim.update(module, grads)
        return (loss,)

    def wait(results: Any) -> None:
        jax.block_until_ready((results, nnx.state(module)))

    data = (module, optim, *map(jnp.asarray, batch(size)))
    return Training(step, (), data, count(params), wait)


def init(model: Any, size: Any) -> None:
    jax.block_until_ready(jax.tree.leaves(nnx.state(model(size, rngs=nnx.Rngs(0)))))


def documented_loop(size: Perceptron, weights: Weights) -> Loop:
    """https://flax.readthedocs.io, "MNIST tutorial": ``nnx.jit`` and an ``nnx.MultiMetric``."""
    model, optimizer, *_ = training("mlp", size, ADAM, weights).data
    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))

    def loss_fn(model: Any, x: Any, labels: Any) -> Any:
        logits = model(x)
        return cross_entropy(logits, labels), logits

    @nnx.jit
    def train_step(model: Any, optimizer: Any, metrics: Any, x: Any, labels: Any) -> None:
        grad_fn = nnx.value_and_grad(loss_fn, has_aux=True)
        (loss, logits), grads = grad_fn(model, x, labels)
        metrics.update(loss=loss, logits=logits, labels=labels)
        optimizer.update(model, grads)

    def step(model: Any, x: Any, labels: Any) -> Any:
        return model, train_step(model, optimizer, metrics, x, labels)

    def read(_: None) -> Any:
        values = metrics.compute()
        metrics.reset()
        return values["loss"]

    return Loop(step, model, read)
