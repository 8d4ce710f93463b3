"""Whose state it is: what ``fit`` leaves to its caller, resumes, and gives back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jlayers as jl
from jlayers import training

X = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
T = X.sum(1, keepdims=True)


@pytest.fixture(autouse=True)
def as_optax_wants_it():
    with jax.numpy_dtype_promotion("standard"):
        yield


def mse(y, t):
    return ((y - t) ** 2).mean()


STEP = training.train_step(jl.Dense(1), mse, optax.adam(0.1))


def start(step=STEP):
    return step.start(jax.random.key(0), X)


def fit(step=STEP, state=None, data=None, **options):
    options = {"progress": False, "log_every": 1} | options
    return training.fit(step, start(step) if state is None else state, data or [(X, T)], **options)


def test_the_state_stays_the_callers():
    state = start()
    one, two = fit(state=state, steps=3), fit(state=state, steps=3)
    for a, b in zip(
        jax.tree.leaves(one.state.params), jax.tree.leaves(two.state.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert int(state.step) == 0


def test_one_array_in_two_places_is_trained():
    shared = jnp.ones(3)
    step = lambda state, batch: ({"a": state["a"] + 1, "b": state["b"] + 2}, {})  # noqa: E731
    fitted = fit(step, {"a": shared, "b": shared}, steps=2)
    np.testing.assert_array_equal(fitted.state["b"], 5)


def test_a_state_that_is_given_away_says_so():
    state = start()
    fit(state=state, steps=1, donate=True)
    for use in (
        lambda: fit(state=state, steps=1),
        lambda: STEP(state, (X, T)),
        lambda: training.make_evaluator(jl.Dense(1), lambda y, t: {"a": mse(y, t)}, [(X, T)])(
            state
        ),
    ):
        with pytest.raises(jl.TrainingError, match=r"(?s)used up.*by fit with donate=True"):
            use()


def test_a_finished_script_says_that_there_is_nothing_to_do(tmp_path, capsys):
    def script(**options):
        with training.CheckpointManager(tmp_path) as checkpoints:
            return fit(steps=3, checkpoints=checkpoints, **options)

    first = script()
    capsys.readouterr()
    again = script(progress=True)
    assert "resumed at step 3 of 3, nothing to do" in capsys.readouterr().out
    np.testing.assert_array_equal(again.state.params["kernel"], first.state.params["kernel"])


# Each step makes the loss larger: the first evaluation is the best.
WORSE = training.train_step(jl.Dense(1), lambda y, t: -mse(y, t), optax.adam(0.1))
EVALUATE = training.make_evaluator(jl.Dense(1), lambda y, t: {"loss": mse(y, t)}, [(X, T)])
BEST = training.EarlyStopping("eval/loss", patience=2, restore_best=True)


def test_early_stopping_gives_the_best_state_back(tmp_path):
    options = {"evaluate": EVALUATE, "evaluate_every": 2, "early_stopping": BEST}
    fitted = fit(WORSE, steps=20, **options)
    assert (fitted.step, fitted.stopped, int(fitted.state.step)) == (6, "early stopping", 2)
    expected = fit(WORSE, steps=2).state
    np.testing.assert_array_equal(fitted.state.params["kernel"], expected.params["kernel"])

    def kept():
        return training.CheckpointManager(tmp_path, keep=1, best=1, metric="eval/loss")

    # Of a run that was resumed the best state may be in a checkpoint alone.
    fit(WORSE, steps=4, checkpoints=kept(), checkpoint_every=2, **options)
    assert kept().best_step() == 2
    resumed = fit(WORSE, steps=20, checkpoints=kept(), checkpoint_every=2, **options)
    assert (resumed.step, int(resumed.state.step)) == (6, 2)
    np.testing.assert_array_equal(resumed.state.params["kernel"], expected.params["kernel"])


def test_a_best_state_that_is_gone_is_told(tmp_path):
    options = {"evaluate": EVALUATE, "evaluate_every": 2, "early_stopping": BEST}
    kept = {"checkpoints": training.CheckpointManager(tmp_path, keep=1), "checkpoint_every": 2}
    fit(WORSE, steps=4, **kept, **options)
    with pytest.warns(UserWarning, match="the best state, of step 2, was not kept"):
        assert int(fit(WORSE, steps=20, **kept, **options).state.step) == 6


def test_only_an_evaluation_has_a_best_state():
    with pytest.raises(jl.TrainingError, match="restore_best needs a metric of an evaluation"):
        training.EarlyStopping("loss", patience=1, restore_best=True)


def test_steps_beyond_int32(tmp_path):
    first = 2**31 - 4
    begin = start()._replace(step=jnp.asarray(first, jnp.int32))
    with pytest.raises(training.NonFiniteError) as caught:
        fit(state=begin, data=[(X, T)] * 9 + [(X * np.nan, T)], steps=first + 20)
    assert caught.value.step == first + 9
    checkpoints = training.CheckpointManager(tmp_path)
    fit(state=begin, steps=first + 6, checkpoints=checkpoints)
    resumed = fit(state=begin, steps=first + 8, checkpoints=checkpoints)
    assert [record.step for record in resumed.records][-2:] == [first + 7, first + 8]
