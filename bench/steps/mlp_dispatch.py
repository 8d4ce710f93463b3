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

from .step import Step

NAME = "MLP (784-128-128-10), 32 steps"
STEPS, BATCH = 32, 32
MODEL = jl.serial(jl.Dense(128), jax.nn.relu, jl.Dense(128), jax.nn.relu, jl.Dense(10))
TX = optax.adam(1e-3)


def contenders() -> dict[str, Callable[[], Step]]:
    return {
        "jlayers": functools.partial(_ours, 1),
        "jlayers, 32 steps a call": functools.partial(_ours, STEPS),
        "lax": _by_hand,
    }


def loss(logits: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def batches() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((STEPS, BATCH, 784)).astype(np.float32)
    return x, rng.integers(0, 10, (STEPS, BATCH), np.int32)


def _ours(steps: int) -> Step:
    key, x = jax.random.key(0), jl.spec((BATCH, 784))
    step = training.compiled(training.train_step(MODEL, loss, TX, steps=steps))
    data = jax.tree.map(jnp.asarray, batches())
    calls = [data] if steps > 1 else [(data[0][i], data[1][i]) for i in range(STEPS)]

    def call(run: Any, batch: Any) -> tuple[Any, Any]:
        run, metrics = step(run, batch)
        return run, metrics["loss"]

    return _prepared(call, training.train_state(MODEL, TX, key, x), calls)


def _by_hand() -> Step:
    params, _ = MODEL.init(jax.random.key(0), jl.spec((BATCH, 784)))

    def logits_of(params: Any, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(x @ params["dense"]["kernel"] + params["dense"]["bias"])
        x = jax.nn.relu(x @ params["dense_1"]["kernel"] + params["dense_1"]["bias"])
        return x @ params["dense_2"]["kernel"] + params["dense_2"]["bias"]

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, moments: Any, x: jax.Array, labels: jax.Array) -> Any:
        value, gradient = jax.value_and_grad(lambda params: loss(logits_of(params, x), labels))(
            params
        )
        updates, moments = TX.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments, value

    def call(run: Any, batch: Any) -> tuple[Any, Any]:
        params, moments, value = step(*run, *batch)
        return (params, moments), value

    x, labels = map(jnp.asarray, batches())
    return _prepared(call, (params, TX.init(params)), [(x[i], labels[i]) for i in range(STEPS)])


def _prepared(call: Callable[..., Any], run: Any, batches: list[Any]) -> Step:
    def all_steps() -> Any:
        nonlocal run
        losses = []
        for batch in batches:
            run, value = call(run, batch)
            losses.append(value)
        jax.block_until_ready((run, losses))
        return losses

    first = np.concatenate([np.atleast_1d(value) for value in all_steps()])
    size = jl.summary(MODEL, jl.spec((BATCH, 784))).parameters
    return Step(all_steps, tuple(map(float, first)), None, None, None, size)
