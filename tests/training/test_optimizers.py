"""Transformations of optax that ask for more than a gradient, and masks beside ``frozen=``."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jlayers as jl
from jlayers import training

MODEL = jl.serial(body=jl.Dense(8), head=jl.Dense(1))
RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 3)).astype(np.float32)
T = (X @ np.array([[1], [2], [3]])).astype(np.float32)


@pytest.fixture(autouse=True)
def as_optax_wants_it():
    with jax.numpy_dtype_promotion("standard"):
        yield


def mse(y, t):
    return ((y - t) ** 2).mean()


def taken(tx, steps, model=MODEL, x=X, t=T, **options):
    step = training.train_step(model, mse, tx, **options)
    state, jitted = step.start(jax.random.key(0), x), jax.jit(step)
    for _ in range(steps):
        state, metrics = jitted(state, (x, t))
    return state, metrics


def test_lbfgs_takes_the_steps_that_optax_takes():
    state, _ = taken(optax.lbfgs(), 2)
    params, _ = MODEL.init(jax.random.key(0), X)
    tx = optax.lbfgs()
    moments = tx.init(params)

    def value(params):
        return mse(MODEL.apply(params, {}, X)[0], T)

    for _ in range(2):
        loss, gradient = jax.value_and_grad(value)(params)
        updates, moments = tx.update(
            gradient, moments, params, value=loss, grad=gradient, value_fn=value
        )
        params = optax.apply_updates(params, updates)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_lbfgs_in_the_loop_with_a_part_frozen():
    step = training.train_step(MODEL, mse, optax.lbfgs(), frozen="body/**")
    state = step.start(jax.random.key(0), X)
    fitted = training.fit(step, state, [(X, T)], steps=8, log_every=1, progress=False)
    assert fitted.records[-1].metrics["loss"] < 1e-3
    assert jnp.array_equal(fitted.state.params["body"]["kernel"], state.params["body"]["kernel"])


def test_a_plateau_shrinks_the_rate_that_is_reported():
    plateau = optax.contrib.reduce_on_plateau(patience=2, rtol=1.0, factor=0.5)
    _, metrics = taken(optax.chain(optax.sgd(0.01), plateau), 4, learning_rate=0.01)
    np.testing.assert_allclose(metrics["learning_rate"], 0.0025)


def test_sam_in_one_step():
    tx = optax.contrib.sam(optax.sgd(0.01), optax.sgd(0.01), opaque_mode=True)
    state, _ = taken(tx, 1)
    params, _ = MODEL.init(jax.random.key(0), X)
    gradient = jax.grad(lambda p: mse(MODEL.apply(p, {}, X)[0], T))
    away = jax.tree.map(lambda p, g: p + 0.01 * g, params, gradient(params))
    expected = jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient(away))
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_right_is_refused_by_name():
    with pytest.raises(jl.TrainingError, match=r"(?s)optax.contrib.sam moves.*opaque_mode=True"):
        taken(optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1)), 1)
    with pytest.raises(jl.TrainingError, match=r"(?s)asks for the loss at other.*accumulate=2"):
        taken(optax.lbfgs(), 1, accumulate=2)


PARAMS, _ = MODEL.init(jax.random.key(0), X)
KERNELS = jax.tree.map(lambda leaf: leaf.ndim > 1, PARAMS)
GROUPS = jax.tree.map(lambda leaf: "a" if leaf.ndim > 1 else "b", PARAMS)
MASKED = {
    "a mask": optax.adamw(1e-2, mask=KERNELS),
    "a function": optax.adamw(1e-2, mask=lambda p: jax.tree.map(lambda leaf: leaf.ndim > 1, p)),
    "groups": optax.multi_transform({"a": optax.adam(1e-2), "b": optax.sgd(0.1)}, GROUPS),
}


@pytest.mark.parametrize("name", MASKED)
def test_masks_are_of_all_parameters_whatever_is_frozen(name):
    whole, _ = taken(MASKED[name], 1)
    part, _ = taken(MASKED[name], 1, frozen=("body/**", "head/bias"), ema=0.9)
    np.testing.assert_array_equal(part.params["head"]["kernel"], whole.params["head"]["kernel"])
    np.testing.assert_array_equal(part.params["body"]["kernel"], PARAMS["body"]["kernel"])
    assert set(jl.flatten(part.ema)) == {"head/kernel"}


@pytest.mark.parametrize("make", [optax.sgd, optax.adam])
def test_the_rate_after_skipped_steps_is_the_one_used(make):
    schedule = optax.linear_schedule(1.0, 0.0, 10)
    x, t = np.ones((4, 1), np.float32), np.zeros((4, 1), np.float32)
    bad = np.full_like(x, np.nan)
    step = training.train_step(
        jl.Dense(1), lambda y, t: (y - t).mean(), make(schedule), learning_rate=schedule
    )
    with warnings.catch_warnings(action="ignore"):
        fitted = training.fit(
            step,
            step.start(jax.random.key(0), x),
            [(x, t), (bad, t), (bad, t), (x, t)],
            steps=4,
            log_every=1,
            non_finite="skip",
            progress=False,
        )
    # The gradient of the bias is 1: it has moved by both rates.
    told = [record.metrics.get("learning_rate") for record in fitted.records]
    assert told[1:3] == [None, None]
    np.testing.assert_allclose(-fitted.state.params["bias"][0], told[0] + told[3], rtol=1e-3)
    np.testing.assert_allclose(told[3], 0.9)


def test_the_norm_of_a_half_gradient_does_not_overflow():
    x = jnp.ones((4, 8), jnp.float16)
    params = jax.tree.map(
        lambda a: a.astype(jnp.float16), jl.Dense(1).init(jax.random.key(0), x)[0]
    )
    step = training.train_step(
        jl.Dense(1), lambda y: (y.astype(jnp.float32) * 400).mean(), optax.sgd(1.0), clip=1.0
    )
    state = step.start(jax.random.key(0), x, params=params)
    new, metrics = jax.jit(step)(state, (x,))
    assert metrics["grad_norm"] == 1200  # of nine gradients of 400
    moved = np.asarray(state.params["bias"] - new.params["bias"], np.float32)
    np.testing.assert_allclose(moved, 1 / 3, rtol=2e-3)
    assert new.params["bias"].dtype == jnp.float16
