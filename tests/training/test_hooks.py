"""Hooks: when each method is called, what it may return, and what the loop does when one raises."""

import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from error_text import read
from test_fit import as_optax_wants_it, fit, kept, poisoned, same, told

from jlayers import training

__all__ = ["as_optax_wants_it"]

HERE = pathlib.Path(__file__).parent


class Noting(training.Hook):
    """Writes down every call."""

    every, snapshot_every = 4, 6

    def __init__(self):
        self.calls = []

    def on_start(self, step, records):
        self.calls.append(("start", step, len(records)))

    def on_step(self, step, state):
        assert int(state.step) == step
        self.calls.append(("step", step))

    def on_record(self, record):
        self.calls.append(("record", record.step))

    def on_snapshot(self, snapshot):
        assert int(snapshot.state.step) == snapshot.step
        self.calls.append(("snapshot", snapshot.step, len(snapshot.records)))

    def on_end(self, result):
        self.calls.append(("end", result.step, result.stopped))


def test_each_method_is_called_when_it_is_due():
    hook = Noting()
    fit(steps=9, log_every=5, hooks=[hook])
    assert hook.calls == [
        ("start", 0, 0),
        ("step", 4),
        # A snapshot holds the records up to its step: none is left unread.
        ("record", 5),
        ("snapshot", 6, 1),
        ("step", 8),
        ("snapshot", 9, 1),
        ("step", 9),
        ("record", 9),
        ("end", 9, "steps"),
    ]


def test_several_steps_in_a_call_move_what_is_due_to_its_end():
    hook = Noting()
    fit(steps=9, log_every=5, steps_per_call=3, hooks=[hook])
    assert [call[:2] for call in hook.calls if call[0] in ("step", "snapshot")] == [
        ("step", 6),
        ("snapshot", 6),
        ("step", 9),
        ("snapshot", 9),
    ]


class WeightNorm(training.Hook):
    every = 4

    def on_step(self, step, state):
        return {"weight_norm": optax.tree.norm(state.params)}


def test_metrics_of_a_hook_join_the_record_of_their_step():
    fitted = fit(steps=10, log_every=5, hooks=[WeightNorm()])
    found = {r.step: "weight_norm" in r.metrics for r in fitted.records}
    assert found == {4: True, 5: False, 8: True, 10: True}
    norm = optax.tree.norm(fitted.state.params)
    np.testing.assert_allclose(
        fitted.records[-1].metrics["weight_norm"], norm, rtol=1e-5, atol=1e-6
    )
    # They change nothing else.
    same(fitted.state, fit(steps=10).state)


def test_a_hook_and_an_evaluation_share_a_record():
    options = {"evaluate": lambda state: {"loss": 1.0}, "evaluate_every": 4, "log_every": 8}
    fitted = fit(steps=8, hooks=[WeightNorm()], **options)
    assert [r.step for r in fitted.records] == [4, 8]
    for record in fitted.records:
        assert record.metrics.keys() == {"loss", "right", "eval/loss", "weight_norm"}


@pytest.mark.parametrize(("returned", "stopped"), [(True, "callback"), ("diverged", "diverged")])
def test_a_record_ends_the_loop(returned, stopped):
    class Ends(training.Hook):
        def on_record(self, record):
            return returned if record.step == 10 else None

    fitted = fit(steps=50, hooks=[Ends()])
    assert (fitted.step, fitted.stopped) == (15, stopped)


def test_a_text_at_the_start_ends_it_before_the_first_step():
    class Ends(training.Hook):
        def on_start(self, step, records):
            return "nothing to do"

    fitted = fit(steps=50, hooks=[Ends()])
    assert (fitted.step, fitted.stopped, fitted.records) == (0, "nothing to do", [])


def test_what_a_hook_raises_loses_nothing(tmp_path):
    class Fails(Noting):
        def on_step(self, step, state):
            raise RuntimeError("no")

    hook = Fails()
    with pytest.raises(RuntimeError, match="no") as caught:
        fit(steps=50, hooks=[hook], checkpoints=kept(tmp_path))
    assert (caught.value.fitted.step, caught.value.fitted.stopped) == (4, "error")
    assert kept(tmp_path).steps() == [4]
    assert hook.calls[-2:] == [("snapshot", 4, 0), ("end", 4, "error")]
    again = fit(steps=20, checkpoints=kept(tmp_path))
    same(again.state, fit(steps=20).state)
    assert told(again.records) == told(fit(steps=20).records)


def test_going_back_starts_the_hooks_again(tmp_path):
    class Starts(training.Hook):
        def on_start(self, step, records):
            started.append((step, len(records)))

    started = []
    with pytest.warns(UserWarning, match="goes back to step 5"):
        fit(
            data=poisoned(),
            steps=15,
            non_finite="roll back",
            checkpoints=kept(tmp_path),
            checkpoint_every=5,
            hooks=[Starts()],
        )
    assert started == [(0, 0), (5, 1)]


def test_a_hook_serves_as_a_function_of_a_record():
    hook = Noting()
    hook(training.Record(3, 0, {}, 1.0, 1.0))
    assert hook.calls == [("record", 3)]


def test_errors_of_hooks():
    read((lambda: fit(steps=1, hooks=[lambda: None]), "fit: hooks must be a function of (record)*"))
    for maker in ("tensorboard", "json_lines", "Activations"):
        read(
            (
                lambda: fit(steps=1, hooks=[getattr(training, maker)]),  # noqa: B023
                f"fit: hooks must be functions of a record, and {maker} makes one: call it",
                f"hint:     hooks=[{maker}(...)]",
            )
        )
    read((lambda: fit(steps=1, progress="bar"), "fit: progress must be a training.Progress", "bar"))


def test_a_checkpoint_of_version_0_1_is_continued(tmp_path):
    """Written after 7 of its steps, when a TrainState was still called a run."""
    shutil.copytree(HERE / "saved_by_0_1", tmp_path / "saved")
    sys.path.insert(0, str(HERE.parent / "programs"))
    import resumable

    program = resumable.exact() | {"progress": False}
    whole = training.fit(**resumable.exact() | {"progress": False}, steps=14)
    fitted = training.fit(**program, steps=14, checkpoints=kept(tmp_path / "saved"))
    assert fitted.position == whole.position
    assert [r[:2] for r in fitted.records] == [r[:2] for r in whole.records]
    for record, expected in zip(fitted.records, whole.records, strict=True):
        assert record.metrics.keys() == expected.metrics.keys()
        np.testing.assert_allclose(
            [*record.metrics.values()], [*expected.metrics.values()], rtol=1e-4
        )
    # A bias before a batch norm has a gradient of rounding errors alone, which Adam scales up: its
    # values are the same only under the JAX, and on the processor, that wrote the checkpoint.
    for (path, a), (_, b) in zip(
        jax.tree.leaves_with_path(fitted.state.params),
        jax.tree.leaves_with_path(whole.state.params),
        strict=True,
    ):
        if jax.tree_util.keystr(path) != "['dense']['bias']":
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=str(path))


def test_inspection_and_records_need_no_loop():
    code = (
        "import sys, jlayers.records; from jlayers import inspection; "
        "inspection.find_non_finite, inspection.CompileWatch; "
        "print([name for name in sys.modules if name.startswith('jlayers.training')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=HERE.parent.parent,
    )
    assert done.stdout == "[]\n"


def _hook(**methods):
    return type("Mine", (training.Hook,), {"every": 1, **methods})()


WRONG_HOOKS = [
    (_hook(every=0), "every of Mine must be a positive int, got 0"),
    (_hook(every=1.5), "every of Mine must be a positive int, got 1.5"),
    (_hook(every=None, on_step=lambda *_: None), "Mine has on_step, and would never be called"),
    (_hook(on_snapshot=lambda *_: None), "Mine has on_snapshot, and would never be called"),
    (_hook(on_epoch=lambda *_: None), "Mine has on_epoch, which fit does not know"),
    (
        _hook(on_step=lambda *_: 1.0),
        "on_step of Mine must return metrics, scalars by name, or None",
    ),
    (_hook(on_step=lambda *_: {1: 2.0}), "on_step of Mine must return metrics*"),
    (_hook(on_step=lambda *_: {"v": np.ones(3)}), "the metric 'v' of Mine must be a scalar"),
    (_hook(on_step=lambda *_: {"v": None}), "the metric 'v' of Mine must be a scalar"),
    (
        _hook(on_step=lambda *_: {"loss": 0.0}),
        "a hook returned the metric 'loss', which the step has as well",
    ),
]


@pytest.mark.parametrize(("hook", "text"), WRONG_HOOKS, ids=[text for _, text in WRONG_HOOKS])
def test_a_wrong_hook_is_an_error(hook, text):
    read((lambda: fit(steps=2, hooks=[hook]), f"fit: {text}"))


def test_two_hooks_cannot_have_one_metric():
    hooks = [_hook(on_step=lambda *_: {"v": 1.0}), _hook(on_step=lambda *_: {"v": 2.0})]
    read((lambda: fit(steps=2, hooks=hooks), "fit: two hooks returned the metric 'v'"))


@pytest.mark.parametrize(
    ("answer", "stopped"),
    [("enough", "enough"), (np.bool_(True), "callback"), (True, "callback"), (1, "steps")],
)
def test_what_ends_the_loop(answer, stopped):
    assert fit(steps=4, log_every=1, hooks=[lambda record: answer]).stopped == stopped
    assert fit(steps=4, log_every=1, hooks=[_hook(on_record=lambda *_: answer)]).stopped == stopped
