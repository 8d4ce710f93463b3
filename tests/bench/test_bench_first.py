"""The rows about the first step and about growth with depth. No timing is tested here."""

import json
import types

import jax
import jax.numpy as jnp
import pytest

from bench import first, fresh, groups, growth, startup, tables
from bench.agreement import assert_agreement
from bench.data import default_promotion
from bench.frameworks import LIBRARIES
from bench.frameworks.sizes import Transformer, mobilenet
from bench.steps.table import TRANSFORMER, VARIANTS

# Warnings from other libraries are not ours to fix.
pytestmark = pytest.mark.filterwarnings("ignore")
TINY = Transformer(2, 8, 11, 8, 2, 2)


def test_equations_are_counted_within_others():
    def body(carry, x):
        return jax.jit(jax.lax.sin)(carry) + x, None

    def function(x, xs):
        return jax.lax.scan(body, x, xs)[0]

    # scan; in its body jit and add; in that sin.
    jaxpr = jax.make_jaxpr(function)(jnp.zeros(()), jnp.zeros(3))
    assert first.count_equations(jaxpr) == 4


@pytest.mark.full
def test_every_stage_of_a_first_step_is_timed():
    row = first.STEPS_TRACED["transformer"]
    row = row._replace(step=row.step._replace(size=TINY))
    with default_promotion():
        for framework in first.FRAMEWORKS:
            pytest.importorskip({"linen": "flax"}.get(framework, framework))
            seconds = first.stages(row, framework)
            assert tuple(seconds) == first.STAGES
            assert min(seconds.values()) > 0


def test_a_first_step_is_a_row_like_others(monkeypatch):
    def line(*arguments):
        assert arguments[:3] == ("-m", "bench.first", "resnet50")
        if arguments[3] == "linen" and not linen:
            raise RuntimeError("No module named 'flax'")
        return json.dumps(dict.fromkeys(first.STAGES, 2.0 if arguments[3] == "linen" else 4.0))

    monkeypatch.setattr(first, "last_line", line)
    linen = True
    row = first.ROWS["first-resnet50"](1.0, 3)
    assert row["frameworks"]["jlayers"]["compile"]["calls"] == 3
    table, _ = tables.group_tables({"first-resnet50": row})[0]
    assert [cells[:2] for cells in table.lines] == [["first-resnet50", s] for s in first.STAGES]
    assert all("0.50x linen" in cells for cells in table.lines)
    linen = False
    assert first.ROWS["first-resnet50"](1.0, 1)["frameworks"]["linen"]["status"] == "missing"


@pytest.mark.full
def test_equations_are_compared_with_those_of_linen():
    pytest.importorskip("flax")
    assert sum(len(block.convs) for block in first.CONVOLUTIONS.blocks) + 1 == 36
    small = mobilenet(2, 8, 3, 4, ((2, 4, 1, 1),))._replace(last=None)
    with default_promotion():
        answer = first.equations(1.0, 1, small)
    ours, theirs = answer.figure.split("(")[1].rstrip(")").split(" to ")
    assert int(ours.replace(",", "")) > 50
    assert float(answer.figure.split("x")[0]) == pytest.approx(int(ours) / int(theirs), abs=0.01)


@pytest.mark.parametrize(
    ("kind", "per_block", "constant", "holds"),
    [
        ("serial", 1.0, 100.0, True),
        ("serial", lambda n: n, 0.0, False),
        ("repeat", 0.0, 1.0, True),
        ("repeat", 1.0, 1.0, False),
    ],
)
def test_growth_is_judged_without_what_does_not_depend_on_the_blocks(
    kind, per_block, constant, holds
):
    def seconds(kind, n):
        each = per_block(n) if callable(per_block) else per_block
        return {"trace": constant + n * each, "compile": constant + n}

    def measure(kind, n):
        return seconds(kind, n) if kind == "serial" else {**seconds(kind, n), "compile": constant}

    answer = growth.growth(kind, 1.0, 2, measure=measure)
    assert answer.holds == holds
    assert list(answer.seconds) == [str(count) for count in growth.COUNTS[kind]]
    assert "ms a block" in answer.figure


def test_growth_is_measured_of_all_kinds():
    for kind in (*growth.COUNTS, "by hand"):
        with default_promotion():
            seconds = growth.measure(kind, 2)
        assert tuple(seconds) == growth.STAGES


def test_residual_blocks_by_hand_are_those_of_the_model():
    model = growth.model("serial", 2)
    x = jax.random.normal(jax.random.key(1), (3, growth.WIDTH))
    params, state = model.init(jax.random.key(0), x)
    expected, _ = model.apply(params, state, x)
    with default_promotion():
        assert_agreement(growth.residual_by_hand(params, x), expected)
    answer = growth.residual(1.0, 1, measure=lambda kind, n: {"trace": 1.0, "compile": n / 4.0})
    assert answer.figure == "1.00x (trace 1.00 to 1.00 s, compile 10.00 to 10.00 s)"


def test_start_up_shares_the_processes_of_its_rows(monkeypatch):
    calls = []

    def seconds(what, name):
        calls.append((what, name))
        return startup.LONG + 1 if name == "haiku" else 1.0

    monkeypatch.setattr(startup, "seconds_of_process", seconds)
    rows = startup.measure(rounds=2)
    scans = [name for name in VARIANTS[TRANSFORMER] if name.endswith("scan")]
    assert set(calls) == {
        *(("first_step", name) for name in (*LIBRARIES, "jlayers loop", *scans)),
        *(("init", name) for name in LIBRARIES),
    }
    assert calls.count(("first_step", "linen")) == 2
    assert calls.count(("first_step", "haiku")) == 1
    assert rows["first step of 48 blocks, one compiled for all"].keys() == {"jlayers", *scans}


def test_an_import_is_a_process(monkeypatch):
    programs = []
    monkeypatch.setattr(startup, "last_line", lambda *command: programs.append(command[1]))
    answer = startup.import_cost(1.0, 2)
    assert programs == ["import jlayers; print(0)", "import jax, optax; print(0)"] * 3
    assert [len(values) for values in answer.seconds.values()] == [2, 2]


def test_processes_have_no_cache_of_programs(monkeypatch):
    kept = {}

    def run(command, env, **options):
        kept.update(env)
        return types.SimpleNamespace(stdout="a\nb\n", stderr="", returncode=0)

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "somewhere")
    monkeypatch.setattr(fresh.subprocess, "run", run)
    assert fresh.last_line("-c", "pass") == "b"
    assert "PATH" in kept
    assert "JAX_COMPILATION_CACHE_DIR" not in kept
    assert fresh.status_of(RuntimeError("No module named 'x'"))["status"] == "missing"
    assert fresh.status_of(RuntimeError("out of memory"))["status"] == "failed"


def test_the_rows_are_found():
    chosen = groups.choose(["first"], groups.entries())
    assert chosen == [*first.ROWS, *first.QUESTIONS, *growth.ROWS, "import"]
