"""The rows about training measure what they say, and miss what is wrong. No timing is believed."""

import collections
import pathlib
import random
import types

import jax
import numpy as np
import pytest

from bench import (
    groups,
    kills,
    show,
    training_loop,
    training_memory,
    training_rows,
    whole_steps,
)
from bench.leniency import lenient
from bench.models.sizes import Perceptron
from bench.steps import fit
from bench.training_loop import Size
from jlayers import training

# What other libraries warn of is theirs.
pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]
TINY = Size(6, (5, 3))


@pytest.fixture(autouse=True)
def compiled_fast():
    """What is compiled here runs a few times only; and promotes as optax does."""
    jax.config.update("jax_disable_most_optimizations", True)
    with lenient():
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_the_loops_are_timed_after_the_same_bits():
    all_on = training_loop.overhead(1e-9, 2, steps=40, processes=2, size=TINY)
    assert {name: len(seconds) for name, seconds in all_on.seconds.items()} == {
        "fit": 4,
        "fit with metrics alone": 4,
        "bare": 4,
    }
    many = training_loop.many(1e-9, 3, steps=40, size=TINY)
    assert [len(seconds) for seconds in many.seconds.values()] == [3, 3]
    for row in (all_on, many):
        assert row.figure.split("x")[0].replace(".", "").isdigit()
        assert show.group_table("training", {"loop": row._asdict()}).row_count == 1


def test_loops_that_differ_are_not_timed(tmp_path):
    data = training_loop.batches(TINY, 2)
    loops = {"fit": training_loop.Fit(TINY, data, tmp_path, False)}
    loops["bare"] = training_loop.Bare(TINY, data[:1])
    with pytest.raises(AssertionError):
        training_loop.same_after(loops, 2)


def test_everything_is_on_where_it_is_said(tmp_path):
    loop = training_loop.Fit(TINY, training_loop.batches(TINY, 4), tmp_path, everything=True)
    loop(200)
    loop(200)
    assert loop.taken == 400
    assert int(loop.run.step) == 400
    for last in (200, 400):
        folder = tmp_path / f"until_{last}"
        records = training.read_json_lines(folder / "log.jsonl")
        assert [record.step for record in records] == [last - 100, last]
        assert training.CheckpointManager(folder / "checkpoints").steps() == [last]


def test_memory_is_that_of_the_compiled_step():
    memory = types.SimpleNamespace(
        argument_size_in_bytes=10,
        output_size_in_bytes=8,
        temp_size_in_bytes=5,
        alias_size_in_bytes=7,
    )
    compiled = types.SimpleNamespace(memory_analysis=lambda: memory)
    assert training_memory.program_bytes(compiled) == 16
    ours, bare = training_memory._compiled_tick(TINY), training_memory._compiled_bare(TINY)
    parameters = 6 * 5 + 5 + 5 * 3 + 3
    assert training_memory.program_bytes(bare) > 4 * 3 * parameters
    assert training_memory.program_bytes(ours) > training_memory.program_bytes(bare)


def test_a_fresh_process_tells_of_its_memory():
    during, ever = training_memory.most_resident("bare", TINY, 2)
    assert 50e6 < during <= ever < 5e9


def test_memory_is_that_of_the_steps_and_not_of_compiling(monkeypatch):
    resident = {"fit": [1010, 5000], "bare": [1000, 2000]}
    monkeypatch.setattr(training_memory, "most_resident", lambda which, *_: resident[which])
    monkeypatch.setattr(training_memory, "program_bytes", lambda compiled: 100)
    row = training_memory.step_memory(1.0, 2, TINY)
    assert row.figure.startswith("1.0000x; 1.010x")
    assert row.holds
    resident["fit"] = [1030, 1030]
    assert not training_memory.step_memory(1.0, 1, TINY).holds


def test_the_loops_of_all_libraries_lose_alike():
    made = fit.contenders(Perceptron(4, 6, (5, 7), 3), steps=40)
    module = types.SimpleNamespace(NAME=fit.NAME, contenders=lambda: made)
    row = whole_steps.measure_step(module, 1e-9, 3)
    assert list(row["contenders"]) == list(made)
    for name, entry in row["contenders"].items():
        assert entry["status"] in ("ok", "missing"), (name, entry)
    assert row["contenders"]["jlayers"]["status"] == "ok"
    assert row["contenders"]["lax"]["step"]["calls"] >= 2


def test_the_rows_are_found():
    assert set(groups.choose(["training"], groups.entries())) == set(training_rows.ROWS)
    assert "step-fit" in groups.entries()


def test_a_gigabyte_is_written_once_for_two_rows():
    write, blocking = (
        row(1e-9, 1, megabytes=2) for row in (training_rows.write, training_rows.blocking)
    )
    assert write.seconds is blocking.seconds
    assert {len(values) for values in write.seconds.values()} == {1}
    assert "cat and fsync" in write.figure
    assert "copy to the host" in blocking.figure


def test_mutated_files_are_counted(monkeypatch):
    row = training_rows.fuzz(1e-9, 1, count=40)
    assert row.holds, row.figure
    refused, read = (int(part.split()[0]) for part in row.figure.split(";")[0].split(", "))
    assert refused + read == 40
    assert "resident memory grew by" in row.figure
    failed = types.SimpleNamespace(returncode=1, stdout="", stderr="...\nAssertionError: no")
    monkeypatch.setattr(training_rows.subprocess, "run", lambda *given, **options: failed)
    assert training_rows.fuzz(1e-9, 1)[1:4] == ("AssertionError: no", "nothing else", False)


def test_killed_programs_come_to_their_end():
    counts = collections.Counter(kills.run(2, steps=300, tell=lambda text: None))
    assert counts["kills"] == 2
    assert counts["programs"] >= 2
    places = ("at the start", "in a write", "after the start")
    assert sum(counts[place] for place in places) == 2


def left_by_a_program(folder: pathlib.Path, scale: float = 1.0) -> pathlib.Path:
    tree = {"kernel": np.arange(3, dtype=np.float32) * scale}
    training.save_checkpoint(folder / kills.CHECKPOINTS, tree, step=10, position=[0, 1])
    training.json_lines(folder / kills.LOG)(training.Record(10, 0, {"loss": 0.5}, scale, scale))
    return folder


def test_another_end_is_told(tmp_path):
    one, same, other = (
        left_by_a_program(tmp_path / name, scale) for name, scale in (("a", 1), ("b", 1), ("c", 2))
    )
    kills.same_end(one, same)
    with pytest.raises(AssertionError, match="kernel ends in other bits"):
        kills.same_end(one, other)
    training.json_lines(same / kills.LOG)(training.Record(10, 0, {"loss": 0.25}, 1.0, 1.0))
    with pytest.raises(AssertionError, match="ended with"):
        kills.same_end(same, one)


def test_a_checkpoint_that_is_not_whole_is_told(tmp_path):
    folder = left_by_a_program(tmp_path)
    assert kills.whole(folder) == 10
    assert kills.whole(tmp_path / "none") == 0
    (path,) = (folder / kills.CHECKPOINTS).glob("step_*/arrays.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(training.CorruptCheckpointError, match="truncated"):
        kills.whole(folder)


def test_what_a_kill_does_not_leave_whole_misses_the_row(monkeypatch):
    def failing(count, tell):
        raise AssertionError("the checkpoint of step 20 is gone")

    monkeypatch.setattr(kills, "run", failing)
    row = kills.row(1.0, 1)
    assert not row.holds
    assert row.figure == "the checkpoint of step 20 is gone"
    counts = {"kills": 200, "in a write": 31, "programs": 40}
    monkeypatch.setattr(kills, "run", lambda count, tell: counts)
    assert kills.row(1.0, 1)[1:4] == (
        "200 of 200, 31 in a write; 40 programs",
        "200 of 200",
        True,
    )


class Process:
    """A program that ends so, or runs until it is killed."""

    def __init__(self, exitcode=None):
        self.exitcode = exitcode

    def join(self, seconds=None):
        pass

    def kill(self):
        self.exitcode = -9


@pytest.mark.parametrize(("code", "says"), [(1, "failed with exit code 1"), (None, "hangs")])
def test_a_program_that_fails_is_told(code, says):
    with pytest.raises(AssertionError, match=says):
        kills.ended(Process(code))


def test_a_restart_from_elsewhere_is_told(monkeypatch, tmp_path):
    """Of a program that begins anew though there is a checkpoint."""

    def start(name, folder, steps):
        if not (folder / kills.CHECKPOINTS).exists():
            left_by_a_program(folder)
        with open(folder / kills.RESUMED, "a") as file:
            print(0, file=file)
        return Process()

    trial = object.__new__(kills.Trial)
    trial.name, trial.steps, trial.life, trial.folder = "any", 10, 0.0, tmp_path / "killed"
    monkeypatch.setattr(kills, "start", start)
    with pytest.raises(AssertionError, match=r"went on from \[0\], not 10"):
        trial.killed(random.Random(0), 3)
