"""Training with optax where a model is a pair of pure functions: jlayers, lax, linen, Haiku."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .step import Optimizer, Training
from .weights import NO_PARTS, Layout, Parts, Weights, batch, filled_tree, own_names


class Model(NamedTuple):
    """``init(key, x)`` to (params, state), ``apply(params, state, x)`` to (logits, state)."""

    init: Callable[..., Any]
    apply: Callable[..., Any]


def optax_optimizer(optimizer: Optimizer) -> optax.GradientTransformation:
    make = {"sgd": optax.sgd, "adam": optax.adam, "adamw": optax.adamw}[optimizer.name]
    return make(optimizer.learning_rate, **optimizer.options)


def cross_entropy(logits: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def train(
    model: Model,
    size: Any,
    optimizer: Optimizer,
    weights: Weights | None,
    layout: Layout = own_names,
    parts: Parts = NO_PARTS,
) -> Training:
    x, labels = map(jnp.asarray, batch(size))
    # Not jitted where starting is timed: as one program, the initialisers take longer everywhere.
    init = model.init if weights is None else jax.jit(model.init)
    params, state = init(jax.random.key(0), x)
    if weights is not None:
        params = filled_tree(params, weights, layout, parts)
    tx = optax_optimizer(optimizer)
    carry = (params, state, jax.jit(tx.init)(params))
    step = training_step(model, tx)
    return Training(step, carry, (x, labels), count(params), jax.block_until_ready)


def training_step(model: Model, tx: optax.GradientTransformation) -> Any:
    """(params, state, moments, x, labels) to (params, state, moments, loss), jitted, donating."""

    def step(params: Any, state: Any, moments: Any, x: Any, labels: Any) -> Any:
        def loss_of(params: Any) -> Any:
            logits, new_state = model.apply(params, state, x)
            return cross_entropy(logits, labels), new_state

        (loss, state), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, moments = tx.update(grads, moments, params)
        return optax.apply_updates(params, updates), state, moments, loss

    return jax.jit(step, donate_argnums=(0, 1, 2))


def abstract_step(model: Model, size: Any, optimizer: Optimizer) -> tuple[Any, tuple[Any, ...]]:
    """A new jitted step and the specs of its arguments; nothing is computed."""
    tx = optax_optimizer(optimizer)
    x, labels = (jax.ShapeDtypeStruct(value.shape, value.dtype) for value in batch(size))
    params, state = jax.eval_shape(model.init, jax.random.key(0), x)
    moments = jax.eval_shape(tx.init, params)
    return training_step(model, tx), (params, state, moments, x, labels)
