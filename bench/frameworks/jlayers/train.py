"""Training in jlayers, with optax."""

import io
from collections.abc import Callable
from typing import Any

import jax

import jlayers as jl

from ..optax_step import Model, abstract_step, cross_entropy, optax_optimizer, train
from ..sizes import Perceptron
from ..step import ADAM, Optimizer, Training
from ..weights import Weights
from .models import MODELS


def pair(model: str, size: Any) -> Model:
    layer = MODELS[model](size)

    def apply(params: Any, state: Any, x: Any) -> Any:
        return layer.apply(params, state, x, train=True)

    return Model(layer.init, apply)


def training(model: str, size: Any, optimizer: Optimizer, weights: Weights | None) -> Training:
    return train(pair(model, size), size, optimizer, weights)


def needs(model: str, size: Any, optimizer: Optimizer) -> tuple[float, float]:
    """FLOPs of a step, and bytes: what it trains and the optimiser's moments, read and written.

    The gradients take twice the arithmetic of the forward pass. Activations can stay in a cache.
    """
    own = pair(model, size)
    _, (params, state, moments, x, _) = abstract_step(own, size, optimizer)
    carried = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((params, moments)))
    return 3.0 * jl.flops(own.apply, params, state, x), 2.0 * carried


def init(model: Callable[..., jl.Layer], size: Any) -> None:
    x = jl.spec((size.batch, size.image, size.image, 3))
    jax.block_until_ready(model(size).init(jax.random.key(0), x))


def fit_loop(size: Perceptron, weights: Weights, steps_per_call: int) -> Callable[..., Any]:
    """``fit`` with its defaults, and the progress bar as on a terminal."""
    import rich.console

    from jlayers import training as jl_training

    params = training("mlp", size, ADAM, weights).carry[0]
    step = jl_training.train_step(MODELS["mlp"](size), cross_entropy, optax_optimizer(ADAM))
    state = step.start(jax.random.key(0), jl.spec((size.batch, size.inputs)), params=params)
    taken = 0

    def loop(data: Any, every: int) -> list[float]:
        nonlocal state, taken
        taken += len(data.batches)
        terminal = rich.console.Console(file=io.StringIO(), force_terminal=True, width=100)
        progress = jl_training.Progress(taken, console=terminal)
        options: Any = {"steps_per_call": steps_per_call, "log_every": every, "progress": progress}
        fitted = jl_training.fit(step, state, data.batches, steps=taken, **options)
        state = jax.block_until_ready(fitted.state)
        return [record.metrics["loss"] for record in fitted.records]

    return loop
