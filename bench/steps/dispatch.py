"""What does a training step of a small MLP cost: ours, written by hand, and 32 in one dispatch?

All take the same 32 steps before they are waited for.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jlayers as jl
from jlayers import training

from ..frameworks.jlayers.models import mlp
from ..frameworks.lax.train import mlp_step
from ..frameworks.optax_step import count, cross_entropy
from ..frameworks.sizes import Perceptron
from ..frameworks.step import Step
from ..frameworks.weights import mlp_batches

STEPS, SIZE = 32, Perceptron()
MODEL, TX = mlp(SIZE), optax.adam(1e-3)


def builders() -> dict[str, Callable[[], Step]]:
    return {
        "jlayers": functools.partial(_ours, 1),
        "jlayers, 32 steps a call": functools.partial(_ours, STEPS),
        "lax": _by_hand,
    }


def _ours(steps: int) -> Step:
    step = training.compiled(training.train_step(MODEL, cross_entropy, TX, steps=steps))
    x = jl.spec((SIZE.batch, SIZE.inputs))
    state = training.train_state(MODEL, TX, jax.random.key(0), x)

    def take(state: Any, batch: Any) -> tuple[Any, Any]:
        state, metrics = step(state, batch)
        return state, metrics["loss"]

    return _prepared(take, state, count(state.params), in_one_call=steps > 1)


def _by_hand() -> Step:
    params, _ = MODEL.init(jax.random.key(0), jl.spec((SIZE.batch, SIZE.inputs)))
    step, parameters = mlp_step(TX), count(params)

    def take(state: Any, batch: Any) -> tuple[Any, Any]:
        *state, loss = step(*state, *batch)
        return state, loss

    return _prepared(take, (params, TX.init(params)), parameters)


def _prepared(
    take: Callable[..., Any], state: Any, parameters: int, in_one_call: bool = False
) -> Step:
    x, labels = map(jnp.asarray, mlp_batches(SIZE, STEPS))
    batches = [(x, labels)] if in_one_call else list(zip(x, labels, strict=True))

    def all_steps() -> Any:
        nonlocal state
        losses = []
        for batch in batches:
            state, loss = take(state, batch)
            losses.append(loss)
        jax.block_until_ready((state, losses))
        return losses

    first = np.concatenate([np.atleast_1d(loss) for loss in all_steps()])
    return Step(all_steps, tuple(map(float, first)), parameters)
