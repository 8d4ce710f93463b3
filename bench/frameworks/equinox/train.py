"""Training in Equinox, with optax and ``eqx.filter_jit``."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from ..optax_step import count, cross_entropy, optax_optimizer
from ..sizes import Perceptron
from ..step import ADAM, Loop, Optimizer, Training
from ..weights import Weights, batch, filled_tree
from . import PARTS, layout
from .models import MODELS


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    module, state = eqx.nn.make_with_state(MODELS[model])(size, key=jax.random.key(0))
    params, static = eqx.partition(module, eqx.is_inexact_array)
    if weights is not None:
        params = filled_tree(params, weights, layout, PARTS)
        module = eqx.combine(params, static)
    tx = optax_optimizer(optimizer)

    @eqx.filter_jit(donate="all-except-first")
    def donating(data: Any, module: Any, state: Any, moments: Any) -> Any:
        x, labels = data

        @eqx.filter_value_and_grad(has_aux=True)
        def loss_of(module: Any, state: Any) -> Any:
            mapped = jax.vmap(module, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
            logits, state = mapped(x, state)
            return cross_entropy(logits, labels), state

        (loss, state), grads = loss_of(module, state)
        params = eqx.filter(module, eqx.is_inexact_array)
        updates, moments = tx.update(grads, moments, params)
        return eqx.apply_updates(module, updates), state, moments, loss

    x, labels = map(jnp.asarray, batch(size))
    data = (jnp.moveaxis(x, -1, 1) if x.ndim == 4 else x, labels)
    carry = (module, state, tx.init(params))
    return Training(DataLast(donating), carry, (data,), count(params), wait)


class DataLast(NamedTuple):
    """Takes the data last, as ``Training`` does; ``filter_jit`` donates all but the first."""

    step: Any

    def __call__(self, module: Any, state: Any, moments: Any, data: Any) -> Any:
        return self.step(data, module, state, moments)

    def lower(self, module: Any, state: Any, moments: Any, data: Any) -> Any:
        return self.step.lower(data, module, state, moments)


def wait(results: Any) -> None:
    jax.block_until_ready(eqx.filter(results, eqx.is_array))


def init(model: Any, size: Any) -> None:
    wait(eqx.nn.make_with_state(model)(size, key=jax.random.key(0)))


def documented_loop(size: Perceptron, weights: Weights) -> Loop:
    """https://docs.kidger.site/equinox/examples/mnist: ``filter_jit``, a loss printed at times."""
    model, state, opt_state = training("mlp", size, ADAM, weights).carry
    optim = optax_optimizer(ADAM)

    def loss(model: Any, x: Any, labels: Any) -> Any:
        logits, _ = jax.vmap(model, in_axes=(0, None))(x, state)
        return cross_entropy(logits, labels)

    @eqx.filter_jit
    def make_step(carry: Any, x: Any, labels: Any) -> Any:
        model, opt_state = carry
        loss_value, grads = eqx.filter_value_and_grad(loss)(model, x, labels)
        updates, opt_state = optim.update(grads, opt_state, eqx.filter(model, eqx.is_array))
        return (eqx.apply_updates(model, updates), opt_state), loss_value

    return Loop(make_step, (model, opt_state))
