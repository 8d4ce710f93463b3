"""SIGTERM and Ctrl-C: while a source waits, at the last step, ignored, handled by the user."""

import os
import signal
import sys
import threading
import warnings

import jax
import pytest
from test_fit import as_optax_wants_it, batches, fit, kept, same, start, told

from jlayers import training
from jlayers.training.loop import hooks, signals

__all__ = ["as_optax_wants_it"]

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGURG)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Waits end soon, and all is as before at the end."""
    monkeypatch.setattr(signals, "GRACE", 0.01)
    for code, seconds in signals._patience.items():
        monkeypatch.setitem(signals._patience, code, 0.01 if seconds == 0.25 else 20.0)
    before = [signal.getsignal(number) for number in HANDLED]
    yield
    assert [signal.getsignal(number) for number in HANDLED] == before
    assert "jlayers-signals" not in [thread.name for thread in threading.enumerate()]


@pytest.fixture
def handler():
    """Sets a handler for the test."""
    before = [(number, signal.getsignal(number)) for number in HANDLED]
    yield signal.signal
    for number, old in before:
        signal.signal(number, old)


class Waits:
    """The data of ``batches``, whose reader waits for ever after eight of them.

    One is read ahead: seven steps can be taken.
    """

    def __init__(self, number, first):
        self.number, self.first = number, first

    def __call__(self, epoch):
        for batch, after in batches().read([epoch, 0], epochs=epoch + 1):
            if after == [1, 3]:
                self.wait()
            yield batch

    def wait(self):
        if self.first:  # the signal, and only then the wait
            os.kill(os.getpid(), self.number)
        else:
            threading.Timer(0.02, os.kill, (os.getpid(), self.number)).start()
        try:
            assert not threading.Event().wait(20), "the signal did not end the wait"
        except Exception as error:
            raise AssertionError("a source may take it for its own") from error


def ended(number, **options):
    """Runs a loop that a signal ends; the step that it ended at."""
    if number == signal.SIGINT:
        fitted = fit(**options)
        assert fitted.stopped == "interrupt"
        return fitted.step
    with pytest.raises(SystemExit) as caught:
        fit(**options)
    assert caught.value.code == 128 + signal.SIGTERM
    return options["checkpoints"].latest()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("first", [True, False], ids=["before", "during"])
@pytest.mark.parametrize(
    "options", [{"prefetch": 0}, {"prefetch": 2}, {"prefetch": 0, "steps_per_call": 2}], ids=str
)
def test_a_source_that_waits_is_not_waited_for(tmp_path, monkeypatch, number, first, options):
    monkeypatch.setattr(sys.modules["jlayers.data.prefetch"], "_PATIENCE", 0.01)
    options = {"steps": 12, "log_every": 4, "checkpoints": kept(tmp_path)} | options
    steps = ended(number, data=Waits(number, first), **options)
    # A thread reads ahead of the steps, and may be at its wait long before they are taken.
    assert steps <= 7 if options["prefetch"] else steps == (6 if "steps_per_call" in options else 7)
    assert kept(tmp_path).latest() == steps
    resumed = fit(**options)
    whole = fit(**options | {"checkpoints": None})
    same(resumed.state, whole.state)
    assert told(resumed.records) == told(whole.records)


def test_an_evaluation_that_waits_is_done_again(tmp_path, monkeypatch):
    monkeypatch.setitem(signals._patience, hooks.Evaluation.on_step.__code__, 0.01)

    def evaluate(state):
        if not waited:
            waited.append(os.kill(os.getpid(), signal.SIGTERM))
            assert not threading.Event().wait(20)
        return {"loss": 1.0}

    waited = []
    options = {"steps": 12, "evaluate": evaluate, "evaluate_every": 5}
    assert ended(signal.SIGTERM, checkpoints=kept(tmp_path), **options) == 5
    assert told(fit(checkpoints=kept(tmp_path), **options).records) == told(fit(**options).records)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("end", [{"steps": 12}, {"epochs": 2}, {"steps": 10}], ids=str)
def test_after_the_last_step_its_record_is_still_to_come(tmp_path, number, end):
    def data(epoch):
        # Read one ahead, as every source that is not `Batches`.
        for batch, (_, index) in batches().read([epoch, 0], epochs=epoch + 1):
            yield batch
            if not sent and 6 * epoch + (index or 6) == end.get("steps", 12):
                sent.append(os.kill(os.getpid(), number))

    sent = []
    options = {"evaluate": lambda state: {"loss": 1.0}, "evaluate_every": 10, **end}
    last = end.get("steps", 12)
    step = ended(number, data=data, prefetch=0, checkpoints=kept(tmp_path), **options)
    assert step in (last - 1, last)
    whole = fit(**options)
    same(fit(checkpoints=kept(tmp_path), **options).state, whole.state)
    with pytest.warns(UserWarning, match="nothing to do"):
        third = fit(checkpoints=kept(tmp_path), **options)
    same(third.state, whole.state)
    with kept(tmp_path) as checkpoints:
        assert "unfinished" not in checkpoints.restore(start()).extra


class AtStep(training.Hook):
    """Sends a signal to the process when the loop has taken so many steps."""

    every = 1

    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_step(self, step, state):
        if step == self.step:
            os.kill(os.getpid(), self.number)


def test_at_the_very_last_step_the_record_is_made_by_the_next_run(tmp_path):
    def data(epoch):
        for batch, after in batches().read([epoch, 0], epochs=epoch + 1):
            if after == [1, 4]:  # the last of the last stack
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    options = {"steps": 10, "evaluate": lambda state: {"loss": 1.0}, "evaluate_every": 10}
    options |= {"steps_per_call": 5, "prefetch": 0}
    first = fit(data=data, checkpoints=kept(tmp_path), **options)
    assert (first.stopped, first.step) == ("interrupt", 10)
    assert [record.step for record in first.records] == [5]
    second = fit(checkpoints=kept(tmp_path), **options)
    assert second.stopped == "steps"
    assert told(second.records) == told(fit(**options).records)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("ignores", [signal.SIG_IGN, lambda number, frame: None])
def test_what_the_program_ignores_ends_nothing(handler, number, ignores):
    handler(number, ignores)
    fitted = fit(steps=12, hooks=[AtStep(7, number)])
    assert (fitted.stopped, fitted.step) == ("steps", 12)


@pytest.mark.parametrize("raises", [SystemExit, KeyboardInterrupt, RuntimeError])
def test_what_a_handler_raises_comes_between_two_steps(tmp_path, handler, monkeypatch, raises):
    def handle(number, frame):
        raise raises("mine")

    def data(epoch):
        for batch, (_, index) in batches().read([epoch, 0], epochs=epoch + 1):
            yield batch
            if index == 5:
                loop_signals[0]._note(signal.SIGTERM, None)  # as within the compiled step

    loop_signals = []
    own = signals.Signals.__enter__
    monkeypatch.setattr(
        signals.Signals, "__enter__", lambda self: (loop_signals.append(self), own(self))[1]
    )
    handler(signal.SIGTERM, handle)
    with pytest.raises(raises, match="mine"):
        fit(steps=12, data=data, prefetch=0, checkpoints=kept(tmp_path))
    stopped_at = kept(tmp_path).latest()
    assert 4 <= stopped_at <= 6
    same(fit(steps=12, checkpoints=kept(tmp_path)).state, fit(steps=12).state)


def test_a_handler_of_ones_own_is_called_at_once_where_the_source_waits(tmp_path, handler):
    def handle(number, frame):
        raise SystemExit("mine")

    handler(signal.SIGTERM, handle)
    data = Waits(signal.SIGTERM, False)
    with pytest.raises(SystemExit, match="mine"):
        fit(data=data, steps=12, prefetch=0, checkpoints=kept(tmp_path))
    assert kept(tmp_path).steps() == [7]


def test_a_loop_within_a_loop_ends_with_it(tmp_path):
    def inner(state):
        fitted = fit(steps=9, hooks=[AtStep(3, signal.SIGINT)])
        inner_ends.append((fitted.stopped, fitted.step))
        return {}

    inner_ends = []
    fitted = fit(steps=20, evaluate=inner, evaluate_every=7, checkpoints=kept(tmp_path))
    assert inner_ends == [("interrupt", 4)]
    assert (fitted.stopped, fitted.step) == ("interrupt", 8)


def test_the_second_ctrl_c_is_pythons_own():
    def evaluate(state):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(steps=12, evaluate=evaluate, evaluate_every=5)


@pytest.mark.parametrize("ends", ["Ctrl-C", "steps"])
def test_the_log_holds_no_record_of_an_early_end(tmp_path, ends):
    path = tmp_path / "log.jsonl"
    early = {"steps": 20, "hooks": [AtStep(7, signal.SIGINT)]} if ends == "Ctrl-C" else {"steps": 7}
    early["hooks"] = [*early.get("hooks", []), training.json_lines(path)]
    fit(checkpoints=kept(tmp_path), **early)
    made = [record.step for record in training.read_json_lines(path)]
    assert made == ([5] if ends == "Ctrl-C" else [5, 7])
    fit(steps=20, checkpoints=kept(tmp_path), hooks=[training.json_lines(path)])
    assert [record.step for record in training.read_json_lines(path)] == [5, 10, 15, 20]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_an_early_end_did_not_reach_is_not_missed(tmp_path, number):
    options = {"evaluate": lambda state: {"loss": 1.0}, "evaluate_every": 20, "steps": 40}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with training.CheckpointManager(tmp_path, best=1, metric="eval/loss") as checkpoints:
            ended(number, checkpoints=checkpoints, hooks=[AtStep(5, number)], **options)
    checkpoints = training.CheckpointManager(tmp_path, best=1, metric="eval/los")
    fit(checkpoints=checkpoints, **options)
    with pytest.warns(UserWarning, match="has the metric 'eval/los'"):
        checkpoints.close()


def test_on_another_thread_signals_are_not_the_loops():
    fitted = []
    thread = threading.Thread(target=lambda: fitted.append(_standard(steps=3)))
    thread.start()
    thread.join()
    assert fitted[0].step == 3


def _standard(**options):
    with jax.numpy_dtype_promotion("standard"):
        return fit(**options)
