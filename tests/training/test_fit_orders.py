"""Threads, clocks and late readers in the orders that a loaded machine brings about.

Each order is brought about on purpose, by a hook, a clock or a delay, and not by load.
"""

import io
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rich.console
from test_fit import STEP, as_optax_wants_it, batches, fit, kept, poisoned, same, start, told

import jlayers as jl
from jlayers import training
from jlayers.training.loop import hooks as loop_hooks

__all__ = ["as_optax_wants_it"]

OVERFLOWS = training.train_step(
    jl.Dense(100, bias=False), lambda y: y[0, 50] * 1e38, optax.sgd(1.0)
)


class EveryStep(training.Hook):
    every = 1


def a_slow_clock(monkeypatch):
    """Progress is due at each step, as where a step takes longer than its quarter of a second."""
    monkeypatch.setattr(loop_hooks, "_LOOK", 0.0)
    return {"progress": training.Progress(console=rich.console.Console(file=io.StringIO()))}


@pytest.mark.parametrize("late", [lambda patch: {"hooks": [EveryStep()]}, a_slow_clock])
@pytest.mark.parametrize("as_data", [list, iter])
@pytest.mark.parametrize("steps_per_call", [1, 3])
def test_an_overflow_is_reported_whenever_the_loop_looks(
    tmp_path, monkeypatch, late, as_data, steps_per_call
):
    # Of the gradient of step 5 one entry overflows, which only the parameters show.
    data = [(np.eye(100, dtype=np.float32)[[70]] * (1e3 if i == 5 else 0.0),) for i in range(8)]
    params = {"kernel": jnp.zeros((100, 100))}
    state = OVERFLOWS.start(jax.random.key(0), jl.spec((1, 100)), params=params, state={})
    options = {"checkpoints": kept(tmp_path), "steps_per_call": steps_per_call, **late(monkeypatch)}
    with pytest.raises(training.NonFiniteError) as caught:
        fit(OVERFLOWS, state, as_data(data), steps=6, **options)
    assert (caught.value.step, caught.value.position) == (5, [0, 5])
    np.testing.assert_array_equal(caught.value.batch[0], data[5][0])
    assert kept(tmp_path).steps() == []


@pytest.mark.parametrize("options", [{}, {"steps_per_call": 3}], ids=str)
def test_looking_at_each_step_changes_nothing(tmp_path, monkeypatch, options):
    whole = fit(steps=14, **options)
    late = a_slow_clock(monkeypatch) | options
    fit(steps=8, checkpoints=kept(tmp_path), **late)
    late = a_slow_clock(monkeypatch) | options
    parts = fit(steps=14, checkpoints=kept(tmp_path), **late)
    same(parts.state, whole.state)
    assert told(parts.records) == told(whole.records)


class Buffered:
    """A function of the epoch whose readers share a buffer, and must not read at once."""

    def __init__(self, bad, rereads=True):
        self.batches = poisoned(bad)
        self.buffer = np.empty_like(self.batches[0][0])
        self.reads, self.inside, self.rereads = 0, 0, rereads

    def __call__(self, epoch):
        self.reads += 1
        if self.reads > 1 and not self.rereads:
            raise OSError("the file was moved")
        for x, labels in self.batches:
            self.inside += 1
            time.sleep(0.002)  # the other reader's turn, if it had one
            assert self.inside == 1
            self.buffer[:] = x
            batch = self.buffer.copy(), labels
            self.inside -= 1
            yield batch


def test_the_reader_stands_still_while_the_batch_is_looked_for():
    with pytest.warns(UserWarning, match=r"of step 7 is not finite[^$]*\[0, 7\]"):
        fitted = fit(data=Buffered(7), steps=20, prefetch=3, non_finite="skip")
    assert fitted.step == 20
    assert np.isfinite(fitted.state.params["dense"]["kernel"]).all()


def test_a_batch_that_cannot_be_read_again_is_no_reason_to_lose_the_report():
    with pytest.raises(training.NonFiniteError) as caught:
        fit(data=Buffered(7, rereads=False), steps=20)
    assert "got:      a batch that was not read again: OSError('the file was" in str(caught.value)
    assert (caught.value.step, caught.value.batch) == (7, None)
    same(caught.value.state, fit(data=poisoned(7), steps=7).state)


def test_without_its_batch_the_loop_does_not_go_back(tmp_path):
    options = {"checkpoints": kept(tmp_path), "checkpoint_every": 5, "non_finite": "roll back"}
    with pytest.raises(training.NonFiniteError, match="not read again"):
        fit(data=Buffered(7, rereads=False), steps=20, **options)


def test_a_source_that_is_busy_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr("jlayers.data.recent_batches._PATIENCE", 0.01)
    waiting, come_back = threading.Event(), threading.Event()

    def waits(epoch):
        yield from poisoned(3)[:13]
        waiting.set()
        come_back.wait(60)

    class Waits(EveryStep):
        def on_step(self, step, state):
            assert step < 10 or waiting.wait(60)

    try:
        with pytest.raises(training.NonFiniteError, match="not read again: the source is busy"):
            fit(data=waits, steps=20, prefetch=4, hooks=[Waits()])
    finally:
        come_back.set()


def test_a_loop_on_another_thread_is_not_this_one():
    """Both have the same program; only its own compilations are a loop's news."""

    def other():
        data = training.Batches((np.ones((9, 6), np.float32), np.zeros(9, np.int32)), 3)
        with jax.numpy_dtype_promotion("standard"):
            others.append(fit(STEP, start(), data, steps=7).step)

    class Starts(training.Hook):
        every = 4

        def on_step(self, step, state):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    others = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = fit(STEP, start(), batches(), steps=10, hooks=[Starts()], max_compiles=1)
    assert (fitted.step, others) == (10, [7, 7, 7])
