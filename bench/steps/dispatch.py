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

from ..frameworks.lax.train import mlp_step
from ..frameworks.optax_step import count, cross_entropy
from ..frameworks.step import Step

STEPS, BATCH = 32, 32
MODEL = jl.serial(jl.Dense(128), jax.nn.relu, jl.Dense(128), jax.nn.relu, jl.Dense(10))
TX = optax.adam(1e-3)


def builders() -> dict[str, Callable[[], Step]]:
    return {
        "jlayers": functools.partial(_ours, 1),
        "jlayers, 32 steps a call": functools.partial(_ours, STEPS),
        "lax": _by_hand,
    }


def _batches() -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((STEPS, BATCH, 784)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(rng.integers(0, 10, (STEPS, BATCH), np.int32))


def _ours(steps: int) -> Step:
    x, labels = _batches()
    step = training.compiled(training.train_step(MODEL, cross_entropy, TX, steps=steps))
    state = training.train_state(MODEL, TX, jax.random.key(0), jl.spec((BATCH, 784)))

    def take(state: Any, batch: Any) -> tuple[Any, Any]:
        state, metrics = step(state, batch)
        return state, metrics["loss"]

    calls = [(x, labels)] if steps > 1 else list(zip(x, labels, strict=True))
    return _prepared(take, state, calls, count(state.params))


def _by_hand() -> Step:
    params, _ = MODEL.init(jax.random.key(0), jl.spec((BATCH, 784)))
    step, parameters = mlp_step(TX), count(params)

    def take(state: Any, batch: Any) -> tuple[Any, Any]:
        *state, loss = step(*state, *batch)
        return state, loss

    calls = list(zip(*_batches(), strict=True))
    return _prepared(take, (params, TX.init(params)), calls, parameters)


def _prepared(take: Callable[..., Any], state: Any, batches: list[Any], parameters: int) -> Step:
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
