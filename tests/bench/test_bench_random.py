"""Random shapes differ between runs, can be repeated, and are measured like rows."""

import itertools

import pytest

from bench import __main__ as program
from bench import random_shapes, shapes
from bench.data import default_promotion
from bench.ops import OPS
from bench.shrink import small

# Warnings from other libraries are not ours to fix.
pytestmark = pytest.mark.filterwarnings("ignore")


def drawn(kind, seed, count=200):
    return list(itertools.islice(shapes.random_rows(kind, seed), count))


@pytest.mark.parametrize("kind", shapes.KINDS)
def test_a_seed_repeats_its_shapes_and_another_draws_others(kind):
    rows = drawn(kind, 1)
    assert rows == drawn(kind, 1)
    assert rows[:5] != drawn(kind, 2)[:5]
    assert all(OPS[row.op].flops(row) <= shapes.MOST_FLOPS for row in rows)
    assert all(min(row.x) >= 1 for row in rows)
    assert len({row.x for row in rows}) > 150


def test_recurrent_shapes_fill_their_range():
    rows = drawn("recurrent", 0, 500)
    assert {row.op for row in rows} == {"lstm", "gru"}
    ranges = ((4, 256), (30, 400), (16, 320), (48, 320))
    sizes = zip(*((*row.x, row["features"]) for row in rows), strict=True)
    for own, (low, high) in zip(sizes, ranges, strict=True):
        assert low <= min(own) <= 1.1 * low
        assert 0.9 * high <= max(own) <= high


def test_channels_are_what_users_have():
    channels = {row.x[-1] for row in drawn("conv", 0)}
    assert 3 in channels
    assert all(size % 8 == 0 for size in channels if size >= 16)
    for row in drawn("grouped", 0):
        assert row.x[-1] % row["groups"] == row["features"] % row["groups"] == 0
    for row in drawn("norm", 0):
        assert row.x[-1] % row.options.get("groups", 1) == 0


@pytest.fixture
def tiny(monkeypatch):
    """Shapes that a test can afford, and no measurement of the machine."""
    monkeypatch.setattr("bench.device.choose_platform", lambda name: None)
    monkeypatch.setattr("bench.floors._best", lambda call, **options: (call(), 1e-3)[1])

    def rows(kind, seed):
        return map(small, shapes.random_rows(kind, seed))

    monkeypatch.setattr(random_shapes, "random_rows", rows)


def test_a_run_checks_times_and_sums_up(tiny, capsys):
    pytest.importorskip("flax")
    limits = ["--count", "1", "--peers", "linen", "--budget", "0.01", "--rounds", "3"]
    with default_promotion():
        program.main(["random", "dense", "--seed", "7", *limits])
    printed = " ".join(capsys.readouterr().out.split())
    assert "--seed 7 repeats these shapes" in printed
    assert "dense, seed 7: 1 of 1 shapes" in printed
    assert "1 below 0.97x of the best peer" in printed
    assert "x linen" in printed


@pytest.mark.full
@pytest.mark.parametrize("kind", shapes.KINDS)
def test_every_kind_is_measured(kind, tiny):
    pytest.importorskip("flax")
    rows = list(itertools.islice(random_shapes.random_rows(kind, 3), 2))
    with default_promotion():
        results = random_shapes.run(rows, ("jlayers", "linen"), 0.01, 3, 60.0)
    assert results
    for result in results.values():
        assert result["frameworks"]["jlayers"]["status"] == "ok"


def timed(seconds, digest=None):
    timing = {"median": seconds, "digest": digest}
    return {"status": "ok", "forward": timing, "gradient": timing}


def test_the_summary_has_the_share_the_mean_and_the_worst():
    rows = {
        "slow": {"frameworks": {"jlayers": timed(4.0), "linen": timed(2.0), "nnx": timed(1.0)}},
        "fast": {"frameworks": {"jlayers": timed(1.0), "linen": timed(2.0)}},
        "same": {"frameworks": {"jlayers": timed(2.0, "a"), "haiku": timed(1.0, "a")}},
        "alone": {"frameworks": {"jlayers": timed(1.0)}},
    }
    text = random_shapes.summary(rows)
    first, *worst = text.splitlines()[:4]
    assert first == "forward: 1 of 3 below 0.97x of the best peer (33%), geometric mean 0.63x"
    assert [line.split(": ")[1] for line in worst] == ["slow", "same", "fast"]
    assert "haiku (same program)" in worst[1]


def test_a_result_of_ours_that_is_wrong_ends_with_an_error(tiny, monkeypatch, capsys):
    def measure(row, budget, rounds, frameworks):
        reason = {"status": "wrong", "reason": "forward: [0] is off"}
        return {"frameworks": {"jlayers": reason, "linen": timed(1.0)}}

    monkeypatch.setattr("bench.measure.measure", measure)
    with pytest.raises(SystemExit) as caught:
        program.main(["random", "norm", "--count", "2"])
    assert caught.value.code == 1
    assert "wrong: forward: [0] is off" in capsys.readouterr().out


def test_the_time_is_limited(capsys):
    assert random_shapes.run(drawn("dense", 0, 3), ("jlayers",), 1.0, 1, limit=-1.0) == {}
    assert "the time is over" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["conv", "--peers", "linen,lasagne"], "no such peer: lasagne; there are linen, nnx"),
        (["conv", "--count", "0"], "--count and --rounds are at least 1"),
        (["conv", "--limit", "0"], "--budget and --limit more than 0 seconds"),
    ],
)
def test_arguments_are_checked(arguments, says):
    with pytest.raises(SystemExit) as caught:
        random_shapes.main(arguments)
    assert says in str(caught.value)
