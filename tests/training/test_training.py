"""The train state and the step: the numbers of the hand-written step, K at once, and errors."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from error_text import each, read

import jlayers as jl
from jlayers import checkpoint, data, training
from jlayers.training.state import _TRAINING

MODEL = jl.serial(jl.Dense(16), jl.BatchNorm(), jax.nn.relu, jl.Dropout(0.3), jl.Dense(3))
TX = optax.adam(1e-2)
K = 4


@pytest.fixture(autouse=True)
def as_optax_wants_it():
    """optax multiplies numbers of different types."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def loss(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def batches(n=K):
    x, labels = jax.random.split(jax.random.key(7))
    return jax.random.normal(x, (n, 8, 5)), jax.random.randint(labels, (n, 8), 0, 3)


def batch(i=0):
    return jax.tree.map(lambda leaf: leaf[i], batches())


def start(model=MODEL):
    return training.train_state(model, TX, jax.random.key(0), jl.spec((8, 5)))


def data_of(tree):
    """Typed keys as the numbers they are."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)


def assert_same(got, expected, **close):
    got, expected = data_of(got), data_of(expected)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, **(close or {"rtol": 0, "atol": 0}))


@jax.jit
def by_hand(params, state, moments, x, labels, key):
    def loss_of(params):
        logits, new_state = MODEL.apply(params, state, x, key=key, train=True)
        return loss(logits, labels), new_state

    (value, state), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
    updates, moments = TX.update(gradient, moments, params)
    return optax.apply_updates(params, updates), state, moments, value


def test_the_state_starts_as_init_says(key):
    params, state = MODEL.init(key, jl.spec((8, 5)))
    assert_same(
        start(),
        training.TrainState(
            jnp.int32(0), params, state, TX.init(params), jax.random.fold_in(key, _TRAINING)
        ),
    )


def test_steps_are_those_written_by_hand():
    state, step = start(), jax.jit(training.train_step(MODEL, loss, TX))
    params, model_state, moments = state.params, state.state, state.opt_state
    for i in range(K):
        key = jax.random.fold_in(state.key, i)
        state, metrics = step(state, batch(i))
        params, model_state, moments, value = by_hand(params, model_state, moments, *batch(i), key)
        assert_same((state.params, state.state, state.opt_state), (params, model_state, moments))
        assert_same(metrics, {"loss": value})
    assert int(state.step) == K
    means = [s.state["batch_norm"]["mean"] for s in (state, start())]
    assert not np.array_equal(*means)


@pytest.mark.optimised
def test_the_compiled_step_is_the_one_written_by_hand():
    model = jl.serial(jl.Dense(16), jax.nn.relu, jl.Dense(3))

    def step(state, batch):
        x, labels = batch

        def loss_of(params):
            y, new = model.apply(params, state.state, x, train=True)
            return loss(y, labels), new

        (value, new), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, moments = TX.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        after = state._replace(step=state.step + 1, params=params, state=new, opt_state=moments)
        return after, {"loss": value}

    state = start(model)
    costs = [
        jax.jit(function).lower(state, batch()).compile().cost_analysis()
        for function in (training.train_step(model, loss, TX), step)
    ]
    assert costs[0] == costs[1]


def test_k_steps_at_once_are_k_steps():
    state, losses = start(), []
    step = jax.jit(training.train_step(MODEL, loss, TX))
    for i in range(K):
        state, metrics = step(state, batch(i))
        losses.append(metrics["loss"])
    at_once, metrics = jax.jit(training.train_step(MODEL, loss, TX, steps=K))(start(), batches())
    assert_same(at_once, state, rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=2e-6)


def test_a_step_is_pure_and_has_a_key_of_its_own():
    step = jax.jit(training.train_step(MODEL, loss, TX))
    state = start()
    assert_same(step(state, batch())[1], step(state, batch())[1])
    later = state._replace(step=state.step + 1)
    assert step(state, batch())[1]["loss"] != step(later, batch())[1]["loss"]
    step(step(state, batch())[0], batch())
    assert step._cache_size() == 1


def test_further_metrics():
    def with_accuracy(logits, labels):
        return loss(logits, labels), {"accuracy": (logits.argmax(-1) == labels).mean()}

    _, metrics = jax.jit(training.train_step(MODEL, with_accuracy, TX))(start(), batch())
    _, plain = jax.jit(training.train_step(MODEL, loss, TX))(start(), batch())
    assert metrics.keys() == {"loss", "accuracy"}
    assert metrics["loss"] == plain["loss"]
    _, metrics = training.train_step(MODEL, with_accuracy, TX, steps=K)(start(), batches())
    assert metrics["accuracy"].shape == (K,)


def test_compiled_donates_the_run_and_leaves_the_users_key(key):
    state = training.train_state(MODEL, TX, key, jl.spec((8, 5)))
    step = training.compiled(training.train_step(MODEL, loss, TX))
    for _ in range(3):
        before = state
        state, _ = step(state, batch())
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert not key.is_deleted()
    assert_same(state, by_plain_jit(3), rtol=0, atol=0)


def by_plain_jit(n):
    state, step = start(), jax.jit(training.train_step(MODEL, loss, TX))
    for _ in range(n):
        state, _ = step(state, batch())
    return state


def step_of(loss=loss, **options):
    return training.train_step(MODEL, loss, TX, **options)


BUILDING = [
    (lambda: training.train_step(loss, MODEL, TX), "train_step: model must be a Layer", "jl.lift"),
    (lambda: step_of(0.5), "train_step: loss must be a function", "loss(y, *targets)"),
    (
        lambda: training.train_step(MODEL, loss, 1e-3),
        "train_step: tx must be an optax transformation",
        "optax.adam",
    ),
    (lambda: step_of(steps=0), "train_step: steps must be a positive int, got 0"),
    (
        lambda: training.train_state(loss, TX, jax.random.key(0), jl.spec((8, 5))),
        "train_state: model must be a Layer",
    ),
]
STEPPING = [
    (
        lambda: step_of()(start(), batch()[0]),
        "train_step: the batch must be a tuple",
        "(x, *targets)",
        "float32[8, 5]",
    ),
    (
        lambda: step_of(steps=3)(start(), batches()),
        "train_step: the batch does not hold 3 batches",
        "the first axis of every array is steps=3",
        "(float32[4, 8, 5], int32[4, 8])",
        "np.stack",
    ),
    (
        lambda: step_of(lambda y, labels: y.mean(-1))(start(), batch()),
        "train_step: the loss must return a scalar",
        "a floating scalar, or (scalar, dict of metrics)",
        "float32[8]",
        ".mean()",
    ),
    (
        lambda: step_of(lambda y, labels: labels.sum())(start(), batch()),
        "train_step: the loss must return a scalar",
        "int32[]",
    ),
    (
        lambda: step_of(lambda y, labels: None)(start(), batch()),
        "train_step: the loss must return a scalar",
    ),
    (
        lambda: step_of(lambda y, labels: (y.mean(), {"loss": y}))(start(), batch()),
        "train_step: the metrics have a 'loss' already",
    ),
    (
        lambda: step_of(lambda y: y.mean())(start(), batch()),
        "train_step: the loss raised TypeError: *takes 1 positional argument but 2 were given",
    ),
    (
        lambda: jax.jit(step_of())(start(), (jnp.ones((8, 6)), jnp.zeros(8, jnp.int32))),
        "Dense at *dense*: its input has 6 features, and its parameters were made for*",
    ),
]


@each(BUILDING, STEPPING)
def test_errors(case):
    read(case)


def test_all_names_are_on_a_page():
    docs = pathlib.Path(__file__).parent.parent.parent / "docs"
    text = "".join(
        (docs / f"{page}.md").read_text()
        for page in ("training", "data", "checkpoints", "inspection", "looking-inside")
    )
    documented = set(re.findall(r"^::: jlayers\.(?:training|data|checkpoint)\.(\w+)$", text, re.M))
    # training has the names of data and checkpoint, too.
    names = {*training.__all__, *data.__all__, *checkpoint.__all__}
    assert names - documented == {"Position"}  # an alias of list
