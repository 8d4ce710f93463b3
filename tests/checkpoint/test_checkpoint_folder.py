"""A folder of checkpoints: which are kept, and what killed or failing writers leave."""

import contextlib
import os
import pathlib
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_trees import filled_folder, tree, value
from error_text import read
from soak import run_program

from jlayers import training
from jlayers.checkpoint.atomic import atomic_directory
from jlayers.checkpoint.writing import Writing

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "checkpoints"


@pytest.fixture
def filled(folder):
    return filled_folder(folder)


def test_keeps_the_last_checkpoints(folder):
    with training.CheckpointManager(folder, keep=2) as checkpoints:
        assert checkpoints.latest() is None
        assert checkpoints.steps() == []
        for step in (1, 5, 12, 100_000_000):
            checkpoints.save(step, tree(step))
    assert checkpoints.steps() == [12, 100_000_000]
    assert checkpoints.latest() == 100_000_000
    assert value(checkpoints.restore(tree())) == 100_000_000
    assert value(checkpoints.restore(tree(), 12)) == 12
    assert sorted(os.listdir(folder)) == ["step_00000012", "step_100000000"]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_keeps_the_best_checkpoints(folder, mode):
    losses = {1: 0.5, 2: 0.1, 3: float("nan"), 4: 0.3, 5: None, 6: 0.1, 7: 0.9}
    options = {"keep": 1, "best": 2, "metric": "eval/loss", "mode": mode}
    for steps in ((1, 2, 3, 4), (5, 6, 7)):  # a new process knows the metrics of the old one
        with training.CheckpointManager(folder, **options) as checkpoints:
            for step in steps:
                loss = losses[step]
                metrics = {} if loss is None else {"eval/loss": loss, "loss": step}
                checkpoints.save(step, tree(step), metrics=metrics)
    assert checkpoints.steps() == {"min": [2, 6, 7], "max": [1, 7]}[mode]


def test_keep_none_keeps_all_checkpoints(folder):
    with training.CheckpointManager(folder, keep=None) as checkpoints:
        for step in range(6):
            checkpoints.save(step, tree(step))
    assert checkpoints.steps() == [*range(6)]


def test_close_warns_of_a_metric_that_no_checkpoint_has(folder):
    checkpoints = training.CheckpointManager(folder, best=1, metric="acuracy")
    checkpoints.save(1, tree(), metrics={"accuracy": 0.5, "loss": 1})
    with pytest.warns(UserWarning, match="'acuracy'.*; their metrics: accuracy, loss"):
        checkpoints.close()


def test_a_step_saved_again_replaces_the_first(folder):
    with training.CheckpointManager(folder) as checkpoints:
        checkpoints.save(3, tree(1))
        checkpoints.save(3, tree(2))
    assert value(checkpoints.restore(tree())) == 2
    assert os.listdir(folder) == ["step_00000003"]


def test_going_back_warns_and_keeps_what_was_just_written(filled):
    with pytest.warns(UserWarning, match=r"step 50 .* step 300 remains the latest"):
        filled.save(50, tree(50))
    filled.wait()
    assert filled.steps() == [50, 100, 200, 300]


def test_the_tree_may_be_donated_after_save(folder, monkeypatch):
    run, go = Writing.run, threading.Event()
    monkeypatch.setattr(Writing, "run", lambda self: (go.wait(10), run(self)))
    x, y = jnp.arange(5000.0), np.arange(3)
    step = jax.jit(lambda x: -x, donate_argnums=0)
    with training.CheckpointManager(folder) as checkpoints:
        checkpoints.save(1, {"x": x, "y": y})
        address = x.unsafe_buffer_pointer()
        assert step(x).unsafe_buffer_pointer() == address
        y[:] = 9
        go.set()
    found = checkpoints.restore({"x": jnp.zeros(5000), "y": y}).tree
    np.testing.assert_array_equal(found["x"], np.arange(5000.0))
    np.testing.assert_array_equal(found["y"], np.arange(3))


def test_one_write_at_a_time_and_history_as_of_its_save(folder, monkeypatch):
    run, running, most = Writing.run, [], []

    def slow(self):
        running.append(1)
        most.append(len(running))
        run(self)
        running.pop()

    monkeypatch.setattr(Writing, "run", slow)
    history = []
    with training.CheckpointManager(folder) as checkpoints:
        for step in range(5):
            history.append({"step": step})
            checkpoints.save(step, tree(), history=history)
    assert most == [1] * 5
    assert len(checkpoints.restore(tree(), 3).history) == 4


def test_python_waits_at_exit_and_warns_of_failures(tmp_path):
    program = """
import pathlib
import numpy as np
from jlayers import training
good, bad = training.CheckpointManager("good"), training.CheckpointManager("bad")
pathlib.Path("bad").rmdir()
pathlib.Path("bad").write_text("")
bad.save(1, {"x": np.zeros(3)})
good.save(1, {"x": np.zeros(3_000_000)})
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (
        "UserWarning: a checkpoint was not written: the checkpoint of step 1 could" in done.stderr
    )
    assert training.CheckpointManager(tmp_path / "good").steps() == [1]


def half_written(folder):
    return [name for name in os.listdir(folder) if name.startswith(".")]


def test_files_of_dead_writers_are_removed_and_those_of_living_ones_are_not(filled):
    folder = filled.folder
    with contextlib.ExitStack() as stack:
        half = stack.enter_context(atomic_directory(folder / "step_00000400"))
        dead = folder / ".step_00000500.writing-0123abcd"
        dead.mkdir()
        (dead / "arrays.safetensors").write_bytes(b"half")
        (folder / ".step_00000500.removed-0123abcd").mkdir()
        (folder / "notes").mkdir()
        (folder / ".hidden").write_text("")
        (folder / "step_00000100").rename(folder / ".step_00000100.replaced-0123abcd")
        assert filled.steps() == [200, 300]
        again = training.CheckpointManager(folder)
        assert again.steps() == [100, 200, 300]
        assert half.is_dir()
        assert sorted(half_written(folder)) == [".hidden", half.name]
        (half / "x").write_text("")
    assert (folder / "step_00000400" / "x").exists()
    assert again.steps() == [100, 200, 300]
    assert half_written(folder) == [".hidden"]


def test_options():
    wrong = [
        ({"mode": "least"}, "*mode must be 'min' or 'max'", "'least'"),
        ({"keep": 0}, "*keep must be a positive int, got 0"),
        ({"best": -1}, "*best must be an int of at least 0, got -1"),
    ]
    for options, *texts in wrong:
        read((lambda options=options: training.CheckpointManager("nowhere", **options), *texts))
    assert not pathlib.Path("nowhere").exists()


def test_killed_writers_leave_complete_checkpoints_only(tmp_path):
    done = run_program("writer_kills", 10, "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    numbers = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines())
    assert numbers["kills"] == "10"
    assert int(numbers["read intact"]) > 0
