"""The rows about training measure what they say. No timing is tested here."""

import pytest

from bench import checkpointing, groups, measure, soak, tables, training_loop
from bench.data import default_promotion
from bench.frameworks.sizes import Perceptron
from bench.steps import fit
from jlayers import training

# Warnings from other libraries are not ours to fix.
pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]
TINY = Perceptron(inputs=6, features=(5,), classes=3)


@pytest.fixture(autouse=True)
def as_users_have_it():
    """optax relies on type promotion."""
    with default_promotion():
        yield


def test_the_loops_give_the_same_bits_before_they_are_timed():
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
        ((table, _),) = tables.group_tables({"loop": row._asdict()})
        assert table.terminal().row_count == 1


def test_loops_that_differ_are_not_timed(tmp_path):
    data = training_loop.batches(TINY, 2)
    loops = {"fit": training_loop.Fit(TINY, data)}
    loops["bare"] = training_loop.Bare(TINY, data[:1])
    with pytest.raises(AssertionError):
        training_loop.in_turns(loops, 2, 1)


def test_everything_is_on_where_that_is_claimed(tmp_path):
    loop = training_loop.Fit(TINY, training_loop.batches(TINY, 4), tmp_path)
    loop(200)
    loop(200)
    assert loop.taken == 400
    assert int(loop.state.step) == 400
    for last in (200, 400):
        folder = tmp_path / f"until_{last}"
        records = training.read_json_lines(folder / "log.jsonl")
        assert [record.step for record in records] == [last - 100, last]
        assert training.CheckpointManager(folder / "checkpoints").steps() == [last]


def test_the_loops_of_all_libraries_have_the_same_losses():
    made = fit.builders(Perceptron(4, 6, (5, 7), 3), steps=40)
    row = measure.measure_step("MLP", made, 1e-9, 3)
    assert list(row["frameworks"]) == list(made)
    for name, entry in row["frameworks"].items():
        assert entry["status"] in ("ok", "missing"), (name, entry)
    assert row["frameworks"]["jlayers"]["status"] == "ok"
    assert row["frameworks"]["lax"]["step"]["calls"] >= 2


def test_the_rows_are_found():
    assert set(groups.choose(["training"], groups.entries())) == {
        *training_loop.ROWS,
        *checkpointing.ROWS,
        *soak.ROWS,
    }
    assert "step-fit" in groups.entries()


def test_a_gigabyte_is_written_once_for_two_rows():
    write, blocking = (
        row(1e-9, 1, megabytes=2) for row in (checkpointing.write, checkpointing.blocking)
    )
    assert write.seconds is blocking.seconds
    assert {len(values) for values in write.seconds.values()} == {1}
    assert "cat and fsync" in write.figure
    assert "copy to the host" in blocking.figure
