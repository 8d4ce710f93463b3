"""The benchmark measures what it says, of the frameworks it names. No timing is tested here."""

import importlib.metadata
import json
import math
import types

import jax
import numpy as np
import pytest

from bench import __main__ as program
from bench import groups, measure, noise, ratios, startup, tables, timing
from bench.agreement import assert_agreement, deviating_losses, disagreement, tolerance
from bench.data import default_promotion, draw
from bench.frameworks import FRAMEWORKS, Unavailable, build
from bench.ops import OPS
from bench.program import MODES, Task
from bench.rows import ROWS
from bench.shrink import small

# Warnings from other libraries are not ours to fix.
pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]


FIRST_OF_OP = {op: next(row for row in ROWS.values() if row.op == op) for op in OPS}


def lines(group, rows):
    """How many lines each table of a group has."""
    return [table.terminal(group).row_count for table, _ in tables.group_tables(rows)]


def verdicts(framework, row):
    """For each mode None, or where the framework's results are wrong."""
    data = draw(row)
    with default_promotion():
        try:
            implementation = build(framework, row)
        except Unavailable as reason:
            pytest.skip(str(reason))
        programs = [implementation.program(Task(row, mode, data)) for mode in MODES]
        return [program.disagrees(tolerance(row.dtype)) for program in programs]


@pytest.mark.parametrize("framework", ["jlayers", "lax"])
@pytest.mark.parametrize("op", OPS)
def test_every_operation_is_right(op, framework):
    assert verdicts(framework, small(FIRST_OF_OP[op])) == [None, None]


@pytest.mark.parametrize(
    "framework", [name for name in FRAMEWORKS if name not in ("jlayers", "lax")]
)
@pytest.mark.parametrize("row", ["conv-3x3-s2-8x56x56x64-128", "lstm-1x256x64x128"])
def test_every_framework_is_right(row, framework):
    assert verdicts(framework, small(ROWS[row])) == [None, None]


def test_a_narrow_dtype_is_judged_by_its_own_tolerance():
    assert verdicts("jlayers", small(ROWS["dense-32x784-128-bf16"])) == [None, None]


def test_a_wrong_result_is_reported_and_not_timed(monkeypatch):
    lax = pytest.importorskip("bench.frameworks.lax.ops")
    dense = lax.OPS["dense"]

    def wrong(row):
        right = dense(row)
        return right._replace(apply=lambda params, x: right.apply(params, x) * 1.01)

    def broken(row):
        raise ValueError("out of order")

    monkeypatch.setitem(lax.OPS, "dense", wrong)
    jlayers = pytest.importorskip("bench.frameworks.jlayers.ops")
    monkeypatch.setitem(jlayers.OPS, "dense", broken)
    monkeypatch.setattr(measure, "FRAMEWORKS", {"jlayers": "jlayers", "lax": "jax"})
    programs, results = measure.right(measure.programs_of(small(FIRST_OF_OP["dense"])))
    assert programs == {}
    assert results["lax"]["status"] == "wrong"
    assert "forward: [0] is off by" in results["lax"]["reason"]
    assert results["jlayers"] == {"status": "failed", "reason": "ValueError: out of order"}


def test_disagreement_says_where():
    right = {"kernel": np.ones((2, 2)), "bias": np.zeros(2)}
    assert disagreement(right, right, 1e-4) is None
    off = {**right, "kernel": np.array([[1, 1], [1, 1.5]])}
    assert disagreement(off, right, 1e-4).startswith("['kernel'] is off by 5.0e-01")
    assert "NaN" in str(disagreement({**right, "bias": np.array([0, np.nan])}, right, 1)) or (
        "nan" in disagreement({**right, "bias": np.array([0, np.nan])}, right, 1)
    )
    assert "shape (1,), not (2,)" in disagreement({**right, "bias": np.zeros(1)}, right, 1)
    assert "another structure" in disagreement({"kernel": right["kernel"]}, right, 1)


def test_rows_cover_what_they_must():
    rows = list(ROWS.values())
    assert {row.op for row in rows} == set(OPS)
    assert {row.dtype for row in rows} == {"float32", "bfloat16"}
    assert {row.x[0] for row in rows} >= {1, 8, 32, 64, 128}
    channels = {row.x[-1] for row in rows if row.group == "conv"}
    assert min(channels) == 3
    assert max(channels) == 512
    assert {row.x[1] for row in rows if row.op == "attention"} >= {128, 512, 1024, 2048}
    for op in ("lstm", "gru", "simple_rnn"):
        sizes = {(*row.x, row["features"]) for row in rows if row.op == op}
        assert sizes >= {(1, 256, 64, 128), (128, 100, 64, 128), (64, 64, 256, 512)}


def test_time_boxed_calls_in_turns_and_lets_the_slow_leave(monkeypatch):
    monkeypatch.setattr(timing, "LONG", 0.0)
    calls = []

    def slow():
        calls.append("slow")
        end = timing.time.perf_counter() + 2e-3
        while timing.time.perf_counter() < end:
            pass

    done = timing.time_boxed({"a": lambda: calls.append("a"), "slow": slow}, 1e-9, 50, least=4)
    assert {name: entry.calls for name, entry in done.items()} == {"a": 4, "slow": 4}
    assert all(set(calls[i : i + 2]) == {"a", "slow"} for i in range(0, len(calls), 2))
    assert done["slow"].low <= done["slow"].median <= done["slow"].high
    alone = timing.time_boxed({"a": lambda: None}, 10, 7)
    assert alone["a"].calls == 7
    assert timing.time_boxed({}, 1, 3) == {}


def test_the_first_of_many_calls_in_a_turn_does_not_count(monkeypatch):
    monkeypatch.setattr(timing, "TURN", 1e9)
    calls = []
    done = timing.time_boxed({name: lambda: calls.append(1) for name in "ab"}, 10, 7)
    assert len(calls) == 2 * (1 + 7)
    assert {entry.calls for entry in done.values()} == {7}


ROW = "dense-32x784-128"


@pytest.fixture
def tiny(monkeypatch):
    """The program with one row, shrunk, and the platform left as the tests have it."""
    monkeypatch.setattr("bench.device.choose_platform", lambda name: None)
    row = small(ROWS[ROW])
    monkeypatch.setattr(groups, "entries", lambda: {ROW: groups.operation(row)})
    monkeypatch.setattr("bench.floors._best", lambda call, **options: (call(), 1e-3)[1])
    return row


def test_a_row_goes_all_the_way(tiny, tmp_path, capsys):
    arguments = ["--results", str(tmp_path), "--budget", "0.01", "--rounds", "3", ROW]
    program.main(arguments)
    printed = capsys.readouterr().out
    assert "geometric means over 1 of 1 rows" in " ".join(printed.split())
    (path,) = tmp_path.glob("*/dense.json")
    stored = json.loads(path.read_text())
    row = stored["rows"][ROW]
    assert stored["device"]["slug"] == path.parent.name
    assert stored["runs"][row["run"]]["versions"]["lax"] == importlib.metadata.version("jax")
    for name, distribution in FRAMEWORKS.items():
        try:
            # jlayers can be imported even where it is not installed.
            importlib.metadata.version(distribution if name != "jlayers" else "jax")
        except importlib.metadata.PackageNotFoundError:
            assert row["frameworks"][name]["status"] == "missing"
            continue
        assert row["frameworks"][name]["status"] == "ok", row["frameworks"][name]
        for mode in MODES:
            assert row["frameworks"][name][mode]["calls"] == 3
            assert (row["frameworks"][name][mode]["compile"] is None) == (name == "torch")
    assert row["floor"]["gradient"] > 0

    program.main([*arguments, "--resume"])
    assert f"{ROW}: kept" in capsys.readouterr().out
    assert json.loads(path.read_text()) == stored
    program.main([*arguments[:-2], "4", ROW, "--resume"])
    assert "kept" not in capsys.readouterr().out


def test_names_are_rows_groups_patterns_and_beginnings():
    found = groups.entries()
    assert groups.choose([], found) == list(found)
    assert groups.choose(["lstm"], found) == [name for name in found if name.startswith("lstm-")]
    assert groups.choose(["dropout", ROW], found)[0] == ROW
    assert set(groups.choose(["conv"], found)) == {n for n, r in ROWS.items() if r.group == "conv"}
    assert groups.choose(["*-bf16"], found) == [n for n in ROWS if n.endswith("-bf16")]
    assert groups.choose(["foundation"], found)[:2] == ["hlo", "call"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("lstmm", "did you mean lstm"),
        ("poool", "did you mean pool"),
        ("zzz", "groups: dense, conv"),
    ],
)
def test_an_unknown_name_is_refused(word, says):
    with pytest.raises(SystemExit) as caught:
        groups.choose([word], groups.entries())
    assert str(caught.value).startswith(f"no such row or group: {word}; ")
    assert says in str(caught.value)
    assert "--list" in str(caught.value)


@pytest.mark.parametrize("name", ["masked-lstm-gradient", "token-2", "token-repeat-2", "cache"])
def test_the_rows_of_sequences_check_what_they_time(name):
    from bench import sequences
    from bench.frameworks.sizes import Transformer

    small = Transformer(1, 8, 11, 8, 2, 2)
    make = {
        "masked-lstm-gradient": lambda: sequences.masked_lstm(True, 1e-9, 3, (2, 5, 3, 4)),
        "token-2": lambda: sequences.one_token(2, False, 1e-9, 9, small),
        "token-repeat-2": lambda: sequences.one_token(2, True, 1e-9, 9, small),
        "cache": lambda: sequences.cached(True, 1e-9, 3, small, (3, 4)),
    }
    with default_promotion():
        row = make[name]()
    assert row.figure.split("x")[0].replace(".", "").isdigit()
    assert len(row.seconds) == 2
    assert lines("sequences", {name: row._asdict()}) == [1]


def test_sequences_do_not_time_what_differs():
    from bench import sequences

    with pytest.raises(AssertionError, match="is off by"):
        assert_agreement([np.ones(3)], [np.zeros(3)])
    assert set(groups.choose(["sequences"], groups.entries())) == set(sequences.ROWS)


def test_foundation_rows_still_answer():
    entry = groups.entries()["nesting"]
    row = entry.measure(1.0, 1)["nesting"]
    assert row["holds"]
    assert lines("foundation", {"nesting": row}) == [1]


def test_whole_steps_must_have_the_same_losses():
    def step(losses, name="run"):
        entry = types.SimpleNamespace(run=lambda: None, first_losses=losses)
        entry.trace, entry.compile, entry.temp_bytes = 0.1, 0.2, 3
        entry.queues = False
        return lambda: entry

    def missing():
        raise Unavailable("no such framework")

    builders = {
        "jlayers": step([2.0, 1.0]),
        "linen": step([2.0, 1.0001]),
        "keras": step([2.0, 1.5]),
        "haiku": missing,
    }
    row = measure.measure_step("MLP", builders, 0.01, 3)
    status = {name: entry["status"] for name, entry in row["frameworks"].items()}
    assert status == {"jlayers": "ok", "linen": "ok", "keras": "wrong", "haiku": "missing"}
    assert "off by 5.0e-01" in row["frameworks"]["keras"]["reason"]
    assert row["frameworks"]["jlayers"]["step"]["compile"] == 0.2
    assert ratios.modes(row) == ["step"]
    assert math.isfinite(ratios.ratios(row, "step").to_peer)
    row = measure.measure_step("MLP", builders, 0.01, 3, judged=1)
    assert row["frameworks"]["keras"]["status"] == "ok"
    assert deviating_losses({"a": [], "b": [1.0]}) == {"a": "gives no losses to compare"}


def test_start_up_is_a_row_like_others(monkeypatch):
    def seconds(what, name):
        if name == "haiku":
            raise RuntimeError("haiku is not installed")
        return {"first_step": 2.0, "init": 1.0}[what]

    monkeypatch.setattr(startup, "seconds_of_process", seconds)
    rows = groups.entries()["startup"].measure(1.0, 1)
    assert list(rows) == list(startup.ROWS)
    row = rows["first step of a 48-block transformer"]
    assert ratios.modes(row) == ["start"]
    assert row["frameworks"]["jlayers"]["start"] == {
        "median": 2.0,
        "low": 2.0,
        "high": 2.0,
        "calls": 3,
    }
    assert row["frameworks"]["haiku"] == {"status": "missing", "reason": "haiku is not installed"}
    assert lines("startup", {"first-step": row}) == [1]


def test_a_process_that_fails_is_reported():
    with pytest.raises(RuntimeError, match=r"bench\.frameworks\.unknown is not installed"):
        startup.seconds_of_process("init", "unknown")


def test_noise_is_a_share():
    start = noise.mark()
    share = noise.share_of_others(start)
    assert share is None if start is None else 0 <= share <= 1
    assert jax.default_backend() == "cpu"
