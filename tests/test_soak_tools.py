"""The tools of the soak tests find what is wrong; here they run for a few seconds each."""

import collections
import pathlib
import random
import types

import numpy as np
import pytest
from soak import checkpoint_fuzz, kills, shard_kills, step_memory

from bench import soak as soak_rows
from bench.data import default_promotion
from bench.frameworks.sizes import Perceptron
from jlayers import training

# Processes that are started, and files that are mutated: not for the usual tests.
pytestmark = pytest.mark.full
TINY = Perceptron(inputs=6, features=(5,), classes=3)


@pytest.fixture
def promoting():
    """optax relies on type promotion."""
    with default_promotion():
        yield


def test_memory_is_that_of_the_compiled_step(promoting):
    memory = types.SimpleNamespace(
        argument_size_in_bytes=10,
        output_size_in_bytes=8,
        temp_size_in_bytes=5,
        alias_size_in_bytes=7,
    )
    compiled = types.SimpleNamespace(memory_analysis=lambda: memory)
    assert step_memory.program_bytes(compiled) == 16
    ours, bare = step_memory._compiled_fit(TINY), step_memory._compiled_bare(TINY)
    parameters = 6 * 5 + 5 + 5 * 3 + 3
    assert step_memory.program_bytes(bare) > 4 * 3 * parameters
    # Without temporaries, which differ by emitter: ours has the sums of the metrics besides.
    ours_held, bare_held = (
        step_memory.program_bytes(program) - program.memory_analysis().temp_size_in_bytes
        for program in (ours, bare)
    )
    assert ours_held > bare_held > 4 * 3 * parameters


def test_a_fresh_process_reports_its_memory():
    during, ever = step_memory.most_resident("bare", TINY, 2)
    assert 50e6 < during <= ever < 5e9


def test_memory_is_that_of_the_steps_and_not_of_compiling(monkeypatch, promoting):
    resident = {"fit": [1010, 5000], "bare": [1000, 2000]}
    monkeypatch.setattr(step_memory, "most_resident", lambda which, *_: resident[which])
    monkeypatch.setattr(step_memory, "program_bytes", lambda compiled: 100)
    memory = step_memory.step_memory(TINY, processes=2)
    assert memory.figure.startswith("1.0000x; 1.010x")
    assert memory.holds
    resident["fit"] = [1030, 1030]
    assert not step_memory.step_memory(TINY, processes=1).holds


def test_mutated_files_are_counted(monkeypatch):
    figure = checkpoint_fuzz.run_in_process(40)
    refused, read = (int(part.split()[0]) for part in figure.split(";")[0].split(", "))
    assert refused + read == 40
    assert "resident memory grew by" in figure
    failed = types.SimpleNamespace(returncode=1, stdout="", stderr="...\nAssertionError: no")
    monkeypatch.setattr(checkpoint_fuzz, "run_program", lambda *arguments: failed)
    with pytest.raises(AssertionError, match="AssertionError: no"):
        checkpoint_fuzz.run_in_process(1)


def test_killed_programs_complete():
    counts = collections.Counter(kills.run(2, steps=300, report=lambda text: None))
    assert counts["kills"] == 2
    assert counts["programs"] >= 2
    where = ("at the start", "in a write", "after the start")
    assert sum(counts[name] for name in where) == 2


def test_a_killed_process_of_several(tmp_path):
    counts = shard_kills.run(1, tmp_path)
    assert counts["kills"] == 1
    assert counts["read"] >= 1
    path = max((tmp_path / "run").glob("step_*"))
    shard_kills.assert_intact(path)
    path.rename(other := path.with_name("step_00009999"))
    with pytest.raises(AssertionError, match="step_00009999"):
        shard_kills.assert_intact(other)


def left_by_a_program(folder: pathlib.Path, scale: float = 1.0) -> pathlib.Path:
    tree = {"kernel": np.arange(3, dtype=np.float32) * scale}
    training.save_checkpoint(folder / kills.CHECKPOINTS, tree, step=10, position=[0, 1])
    training.json_lines(folder / kills.LOG)(training.Record(10, 0, {"loss": 0.5}, scale, scale))
    return folder


def test_another_outcome_is_reported(tmp_path):
    one, same, other = (
        left_by_a_program(tmp_path / name, scale) for name, scale in (("a", 1), ("b", 1), ("c", 2))
    )
    kills.assert_same_outcome(one, same)
    with pytest.raises(AssertionError, match="kernel ends with other bits"):
        kills.assert_same_outcome(one, other)
    training.json_lines(same / kills.LOG)(training.Record(10, 0, {"loss": 0.25}, 1.0, 1.0))
    with pytest.raises(AssertionError, match="ended with"):
        kills.assert_same_outcome(same, one)


def test_a_checkpoint_that_is_not_intact_is_reported(tmp_path):
    folder = left_by_a_program(tmp_path)
    assert kills.newest_intact(folder) == 10
    assert kills.newest_intact(tmp_path / "none") == 0
    (path,) = (folder / kills.CHECKPOINTS).glob("step_*/arrays.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(training.CorruptCheckpointError, match="truncated"):
        kills.newest_intact(folder)


class Process:
    """A program that ends with this code, or runs until it is killed."""

    def __init__(self, exitcode=None):
        self.exitcode = exitcode

    def join(self, seconds=None):
        pass

    def kill(self):
        self.exitcode = -9


@pytest.mark.parametrize(("code", "says"), [(1, "failed with exit code 1"), (None, "hangs")])
def test_a_program_that_fails_is_reported(code, says):
    with pytest.raises(AssertionError, match=says):
        kills.wait_for_success(Process(code))


def test_a_restart_from_elsewhere_is_reported(monkeypatch, tmp_path):
    """Of a program that starts afresh though there is a checkpoint."""

    def start(name, folder, steps):
        if not (folder / kills.CHECKPOINTS).exists():
            left_by_a_program(folder)
        with open(folder / kills.RESUMED, "a") as file:
            print(0, file=file)
        return Process()

    trial = object.__new__(kills.Trial)
    trial.name, trial.steps, trial.duration, trial.folder = "any", 10, 0.0, tmp_path / "killed"
    monkeypatch.setattr(kills, "start", start)
    with pytest.raises(AssertionError, match=r"resumed from \[0\], not 10"):
        trial.killed(random.Random(0), 3)


@pytest.mark.parametrize(
    ("inner", "figure", "holds"),
    [
        ('<properties><property name="figure" value="200 of 200"/></properties>', "200 of 200", 1),
        ('<failure message="the checkpoint of step 20 is gone&#10;more"/>', "step 20 is gone", 0),
        (
            '<properties><property name="figure" value="1.5x"/></properties>'
            '<failure message="no"/>',
            "1.5x",
            0,
        ),
        ('<error message="no module"/>', "no module", 0),
    ],
)
def test_the_figure_of_a_soak_test_is_a_row(monkeypatch, inner, figure, holds):
    def run(command, **options):
        report = next(word for word in command if word.startswith("--junitxml="))
        case = f"<testsuites><testsuite><testcase>{inner}</testcase></testsuite></testsuites>"
        pathlib.Path(report.partition("=")[2]).write_text(case)

    monkeypatch.setattr(soak_rows.subprocess, "run", run)
    row = soak_rows.ROWS["kill-9"](1.0, 1)
    assert row.figure.endswith(figure)
    assert row.holds is bool(holds)
    assert row.bound == "200 of 200"


def test_the_tests_of_the_rows_are_there(monkeypatch):
    commands = []
    monkeypatch.setattr(
        soak_rows.subprocess, "run", lambda command, **options: commands.append(command)
    )
    for row in soak_rows.ROWS.values():
        with pytest.raises(FileNotFoundError):
            row(1.0, 1)
    for command in commands:
        file, _, name = command[-1].partition("::")
        assert f"def {name or 'test_'}" in (soak_rows.ROOT / file).read_text()
