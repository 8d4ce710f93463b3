"""Evaluations: every row counts once, by its weight, and sums are exact."""

import jax
import numpy as np
import optax
import pytest
from error_text import each, read

import jlayers as jl
from jlayers import training

RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 2)).astype(np.float32)
MODEL = jl.Dense(1)
STATE = training.train_state(MODEL, optax.sgd(0.1), jax.random.key(0), X)
WHOLE = float(MODEL.apply(STATE.params, {}, X)[0].mean())


def mean(y):
    return {"mean": y.mean()}


def by_weight(y, valid):
    return {"mean": (y[:, 0] * valid).sum() / valid.sum(), "weight": valid.sum()}


ONES, NONE = np.ones(10, np.float32), np.zeros(10, np.float32)
SOURCES = {
    "rows that do not fill a batch": (mean, training.Batches((X,), 4)),
    "shuffled": (mean, training.Batches((X,), 4, key=0)),
    "a batch of no rows": (mean, [(X[:3],), (X[:0],), (X[3:],)]),
    "a weightless batch": (by_weight, [(X, ONES), (X, NONE)]),
    "a weightless batch first": (by_weight, [(X, NONE), (X, ONES)]),
    "padding": (by_weight, training.Batches((X,), 4, last="pad")),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_row_counts_once(name):
    measure, data = SOURCES[name]
    with jax.numpy_dtype_promotion("standard"):
        got = training.make_evaluator(MODEL, measure, data)(STATE)
    np.testing.assert_allclose(got["mean"], WHOLE, rtol=1e-5, atol=1e-6)


class Scalars:
    """Many batches of one number each."""

    start, rereads = (0, 0), True

    def __init__(self, values):
        self.values = values

    def read(self, position=None, epochs=None):
        for i in range(len(self.values)):
            yield (self.values[i : i + 1],), [0, i + 1]


def test_sums_do_not_drift():
    # A float32 sum of these is off by 1e-4: after the first nothing small is added exactly.
    values = np.full(4000, 1e-4, np.float32)
    values[0] = 2**14
    identity = jl.lift(lambda x: x)
    state = training.train_state(identity, optax.sgd(0.1), jax.random.key(0), values[:1])
    evaluate = training.make_evaluator(identity, lambda y: {"own": y[0]}, Scalars(values))
    expected = values.astype(np.float64).mean()
    np.testing.assert_allclose(float(evaluate(state)["own"]), expected, rtol=1.2e-7)
    values[1] = np.inf
    assert evaluate(state)["own"] == np.inf


def test_a_key_is_for_what_draws_in_evaluation():
    model = jl.inference(jl.serial(jl.Dense(4), jl.Dropout(0.5)), train=True)
    state = training.train_state(model, optax.sgd(0.1), jax.random.key(0), X)
    data = training.Batches((X,), 5)
    with pytest.raises(jl.LayerError, match="needs a key"):
        training.make_evaluator(model, mean, data)(state)
    first, second = (
        training.make_evaluator(model, mean, data, key=jax.random.key(i)) for i in (1, 2)
    )
    assert first(state)["mean"] == first(state)["mean"] != second(state)["mean"]


class Dropping:
    drop_last = True

    def __iter__(self):
        return iter([(X,)])


def evaluate(measure, data=None):
    return training.make_evaluator(MODEL, measure, [(X,)] if data is None else data)(STATE)


ERRORS = [
    (
        lambda: evaluate(mean, Dropping()),
        "make_evaluator: the loader drops the rows that do not fill a batch, and an evaluation is "
        "of all",
        "drop_last=False",
    ),
    (
        lambda: evaluate(lambda y: y.mean()),
        "evaluate: measure must return a dict",
        '{"loss": ...}',
        "float32[]",
    ),
    (
        lambda: evaluate(lambda y: {"a": "b"}),
        "evaluate: the metric 'a' must be a number by its name",
    ),
    (
        lambda: evaluate(mean, [{"x": X}]),
        "evaluate: a batch of the evaluation must be a tuple of arrays",
        "(x, *targets)",
    ),
    (lambda: evaluate(mean, [(X[:0],)]), "evaluate: the data of the evaluation has no rows"),
    (
        lambda: evaluate(lambda y, *, key: {"a": y.mean()}),
        "evaluate: measure needs a key and got none",
        "make_evaluator(key=...)",
    ),
]


@each(ERRORS)
def test_errors(case):
    read(case)
