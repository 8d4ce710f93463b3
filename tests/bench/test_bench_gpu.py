"""The benchmark for a GPU, on a processor: its plan with tiny sizes. No timing is tested here."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from tables.instances import INSTANCES
from tables.tiers import named, soak

import jlayers as jl
from bench import report, results
from bench.data import default_promotion, draw
from bench.frameworks import build
from bench.gpu import __main__ as program
from bench.gpu import clock, driver, laws, operations, roofline, variants
from bench.gpu.item import Item
from bench.gpu.plan import plan
from bench.gpu.rows import FIRST, REST
from bench.measure import checked, right
from bench.ops import OPS
from bench.rows import ROWS
from bench.shrink import small

# Warnings from other libraries are not ours to fix.
pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = pathlib.Path(__file__).parents[2]
PLAN = plan(tiny=True)
# One of each kind, in `make test`.
FAST = (
    "roofline",
    "law: dense",
    "law: embedding",
    "dense-32x784-128",
    "depthwise-3x3-64x56x56x96-96",
    "lstm-64x128x256x512",
    "attention-lengths-2x2048x16x64-bf16",
    "step-mlp",
    "token-1",
)
DEVICE = {"slug": "gpu-1-device-x", "platform": "gpu", "name": "X", "count": 1}
CONDITIONS = {"versions": {"lax": "0.12"}, "variables": {}, "budget": 1.0}


@pytest.fixture
def no_floors(monkeypatch):
    monkeypatch.setattr("bench.floors._best", lambda call, **options: 1e-3)
    monkeypatch.setattr("bench.floors._torch_product", lambda size, dtype: 1e-3)


def run(items, folder, minutes=1.0, stamp="2026-01-02T00:00:00Z", budget=1e-9):
    """Does the items; the rows, and the names of those that were left out."""
    made = driver.Driver(folder, DEVICE, CONDITIONS, stamp)
    left, found = dict(items), {}
    for _, rows in made.run(left, clock.Clock(minutes), budget, 3):
        found |= rows
    return found, list(left)


# The laws of a row are those of test_laws.py, with other values.
LAWS = [name for name in PLAN if name.startswith("law: ") and name not in FAST]


@pytest.mark.parametrize("name", [*named([n for n in PLAN if n not in LAWS], *FAST), *soak(*LAWS)])
def test_an_entry_of_the_plan_is_right(name, tmp_path, monkeypatch, no_floors):
    # The other frameworks are compared in test_bench.
    monkeypatch.setattr(variants, "frameworks", lambda: ["jlayers", "lax"])
    monkeypatch.setattr("bench.gpu.steps.frameworks", lambda: ["jlayers", "lax"])
    found, left = run({name: PLAN[name]}, tmp_path, minutes=60)
    assert left == []
    assert found
    for row in found.values():
        if "frameworks" not in row:
            assert row["holds"] or row["op"] == "sequences", row
            assert "Error" not in row["figure"]
            continue
        for candidate, entry in row["frameworks"].items():
            # cuDNN is missing, and what is unrolled further than the few steps.
            missing = candidate.endswith(("cudnn", "unroll 8", "unroll 16"))
            assert entry["status"] == ("missing" if missing else "ok"), (candidate, entry)
    (path,) = tmp_path.glob("*/*.json")
    assert json.loads(path.read_text())["rows"].keys() == found.keys()


def test_the_plan_has_every_layer_and_every_operation_and_begins_with_what_matters():
    assert {name.removeprefix("law: ") for name in PLAN if name.startswith("law: ")} == set(
        INSTANCES
    )
    rows = {**FIRST, **REST}
    assert rows.keys() <= PLAN.keys()
    assert {row.op for row in rows.values()} == set(OPS)
    order = list(PLAN)
    assert order[0] == "roofline"
    assert order.index("law: dense") < order.index("dense-8192x1024-4096")
    assert order.index(list(FIRST)[-1]) < order.index("step-transformer-16x512")
    assert order.index("token-1") < order.index(next(iter(REST)))


def test_every_method_is_a_candidate():
    rows = {**FIRST, **REST}.values()
    names = {name for row in rows for name in variants.candidates(row)}
    methods = {method for own in variants.METHODS.values() for method in own}
    assert names >= {f"jlayers {method}" for method in methods}
    assert names >= {"lax cudnn", "jlayers cudnn", "lax unroll 2", "lax unroll 16"}


def test_a_method_that_cannot_compute_a_row_is_not_asked():
    candidates = variants.candidates(ROWS["conv-3x3-8x56x56x64-64"])
    assert "jlayers patches" in candidates
    assert not {"jlayers matmul", "jlayers planes", "jlayers shifted"} & set(candidates)


# The laws


def test_the_table_of_the_laws_is_that_of_the_tests():
    assert laws.instances().keys() == INSTANCES.keys()


def test_a_layer_that_is_wrong_is_found_and_named():
    def apply(params, state, x, *, key, train):
        # Off by as much as a TensorFloat-32 product on a device that has none.
        return (x * x).astype(x.dtype) * (1 if x.dtype == jnp.float64 else 1.002), state

    wrong = jl.Layer(lambda key, x: ({}, {}), apply, name="broken")
    row = laws.check(wrong, jl.spec((3, 4)))
    assert not row["holds"]
    assert "float32: training, output is off by 2.0e-03 (allowed 1e-04)" in row["figure"]
    assert "float32 highest: training" in row["figure"]
    assert "bfloat16: " not in row["figure"]


def test_a_layer_that_fails_in_one_dtype_is_judged_in_the_others():
    def narrow_fails(x):
        if x.dtype == jnp.bfloat16:
            raise TypeError("not in sixteen bits")
        return jnp.sin(x)

    row = laws.check(jl.lift(narrow_fails), jl.spec((3, 4)))
    assert not row["holds"]
    assert "bfloat16: " in row["figure"]
    assert "not in sixteen bits" in row["figure"]
    assert row["errors"].keys() == {"float32", "float32 highest"}
    failing = jl.Layer(lambda key, x: ({}, {}), lambda *args, **rest: 1 / 0, name="broken")
    row = laws.check(failing, jl.spec((3, 4)))
    assert not row["holds"]
    assert "ZeroDivisionError" in row["figure"]


def test_products_of_a_gpu_are_judged_as_tensor_float_32_unless_at_highest(monkeypatch):
    assert laws.precisions()["float32"] == (None, 1e-4, 2.0**-24)
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert laws.precisions()["float32"] == (None, 5e-3, 2.0**-11)
    assert laws.precisions()["float32 highest"] == ("highest", 1e-4, 2.0**-24)


# cuDNN


@pytest.mark.parametrize(
    "name", named(["lstm-32x128x128x256", "lstm-2-layers-32x128x128x256"], "lstm-32x128x128x256")
)
def test_the_weights_of_cudnn_are_ours(name, monkeypatch):
    from jax.experimental import rnn

    from bench.frameworks.lax import cudnn

    def by_reference(x, h, c, weights, lengths, *shape):
        channels, size, layers, _, both = shape
        parts = rnn.unpack_lstm_weights(weights, channels, size, layers, both)
        return rnn.lstm_ref(x, h, c, *parts, lengths, *shape)

    monkeypatch.setattr(rnn, "lstm", by_reference)
    row = small(ROWS[name])
    made = {"lax cudnn": checked(lambda: cudnn.fused_lstm(row), row, draw(row))}
    assert right(made)[1] == {"lax cudnn": {"status": "ok"}}


def test_cudnn_is_missing_without_a_gpu():
    row = small(FIRST["attention-lengths-2x2048x16x64-bf16"])
    made = {"lax cudnn": checked(variants.candidates(row)["lax cudnn"], row, draw(row))}
    assert right(made)[1]["lax cudnn"] == {
        "status": "missing",
        "reason": "cuDNN is for NVIDIA GPUs",
    }


@pytest.mark.full
@pytest.mark.parametrize("framework", ["jlayers", "lax", "linen", "nnx", "torch"])
@pytest.mark.parametrize("kind", ["lengths", "window"])
def test_attention_with_lengths_and_windows_is_right_everywhere(kind, framework):
    pytest.importorskip({"linen": "flax", "nnx": "flax", "lax": "jax"}.get(framework, framework))
    row = small(FIRST[f"attention-{kind}-2x2048x16x64-bf16"])
    with default_promotion():
        made = {framework: checked(lambda: build(framework, row), row, draw(row))}
    assert right(made)[1] == {framework: {"status": "ok"}}


# The driver


def item(seconds=0.0, group="g", what="w", fails=False, log=None):
    def finish(prepared, budget, rounds):
        if fails:
            raise RuntimeError("out of order")
        return {prepared.result(): {"op": group, "question": "q", "figure": "1", "holds": True}}

    return Item(group, what, seconds, lambda submit: submit(lambda: "row"), finish)


def named_items(**items):
    """Items whose rows have their names."""

    def one(name, made):
        return made._replace(prepare=lambda submit: submit(lambda: name))

    return {name: one(name, made) for name, made in items.items()}


def test_rows_are_stored_one_by_one_and_a_failure_is_one_of_them(tmp_path):
    found, left = run(named_items(a=item(), b=item(fails=True), c=item(group="h")), tmp_path)
    assert left == []
    assert found["b"]["figure"] == "RuntimeError: out of order"
    stored = json.loads((tmp_path / DEVICE["slug"] / "g.json").read_text())
    assert list(stored["rows"]) == ["a", "b"]
    assert stored["rows"]["a"]["from"] == "a"
    assert stored["device"] == DEVICE
    assert list(json.loads((tmp_path / DEVICE["slug"] / "h.json").read_text())["rows"]) == ["c"]


def test_what_was_stored_before_the_end_is_kept(tmp_path):
    items = named_items(a=item(), b=item())
    made = driver.Driver(tmp_path, DEVICE, CONDITIONS, "2026-01-02T00:00:00Z")
    results_so_far = made.run(dict(items), clock.Clock(1.0), 1e-9, 3)
    next(results_so_far)
    results_so_far.close()
    again = driver.Driver(tmp_path, DEVICE, CONDITIONS, "2026-01-03T00:00:00Z")
    assert list(again.kept("a", items["a"])) == ["a"]
    assert again.kept("b", items["b"]) == {}
    assert again.kept("a", items["a"]._replace(what="other")) == {}
    other = driver.Driver(tmp_path, DEVICE, {**CONDITIONS, "budget": 2.0}, "2026-01-03T00:00:00Z")
    assert other.kept("a", items["a"]) == {}


def test_what_does_not_fit_in_the_minutes_is_left_out(tmp_path):
    items = named_items(a=item(1.0), long=item(1e6), b=item(1.0))
    found, left = run(items, tmp_path)
    assert list(found) == ["a", "b"]
    assert left == ["long"]


def test_the_clock_learns_what_items_take():
    made = clock.Clock(1.0)
    items = named_items(**{str(i): item(10.0) for i in range(9)})
    assert made.fitting(items) == ["0", "1", "2"]
    made.learn(10.0, 20.0)
    assert made.fitting(items) == ["0", "1"]
    made.learn(1.0, 1e9)
    assert made.fitting(items) == ["0"]
    made.learn(1.0, 1e9)
    assert made.fitting(items) == []


def test_a_device_that_is_lost_ends_the_run(tmp_path, monkeypatch):
    def lost():
        raise driver.DeviceLostError("CUDA_ERROR_ILLEGAL_ADDRESS")

    monkeypatch.setattr(driver, "_require_device", lost)
    monkeypatch.setattr(clock, "BATCH", 0.0)
    with pytest.raises(driver.DeviceLostError, match="ILLEGAL"):
        run(named_items(a=item(1.0), b=item(1.0)), tmp_path)
    assert list(json.loads((tmp_path / DEVICE["slug"] / "g.json").read_text())["rows"]) == ["a"]


# The program


def start(*arguments, **options):
    command = [sys.executable, "-m", "bench.gpu", *arguments]
    # As JAX comes: a GPU is what is asked for, unless it is a rehearsal.
    own = {"JAX_PLATFORMS": "", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **own}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes, **options)


def test_without_a_gpu_it_says_so():
    process = start()
    printed, errors = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("there is a GPU")
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1].startswith("a GPU is needed, and JAX")
    assert "does nvidia-smi show a device?" in errors
    assert printed == ""


def test_arguments_are_checked():
    with pytest.raises(SystemExit, match="--minutes and --budget are more than 0"):
        program.main(["--minutes", "0"])


def test_what_the_python_has_not_is_named(monkeypatch):
    monkeypatch.setattr(program, "REQUIRED", ("jax", "jax_of_another_day", "rich"))
    with pytest.raises(SystemExit, match="has no jax_of_another_day: install what is missing"):
        program.main(["--list"])


def test_it_prints_a_summary_and_writes_a_page(tmp_path, capsys, monkeypatch, no_floors):
    monkeypatch.setattr("bench.device.choose_platform", lambda name: None)
    monkeypatch.setattr(variants, "frameworks", lambda: ["jlayers", "lax"])
    monkeypatch.setattr(program, "keep_programs", lambda: None)
    fast = ["--tiny", "--results", str(tmp_path), "--budget", "0.001", "--rounds", "3"]
    program.main([*fast, "law: dense", "dense-32x784-128"])
    printed = capsys.readouterr().out
    assert "law: dense: float32 " in printed
    assert "dense-32x784-128 forward: " in printed
    assert "1 of 1 layers are right" in printed
    # The page of all results does not have those of a rehearsal.
    assert printed.endswith("a rehearsal, of tiny sizes: its figures say nothing\n")
    (page,) = tmp_path.glob("*/page.md")
    assert "1 of 1 layers are right, against float64" in page.read_text()
    assert "| `dense-32x784-128` | forward | " in page.read_text()
    program.main([*fast, "--minutes", "0.001", "law: dense", "dense-32x784-128", "law: gru"])
    printed = capsys.readouterr().out
    assert "2 of 3 are kept from an earlier run" in printed
    assert "left out, for the minutes are spent: law: gru" in printed
    with pytest.raises(SystemExit, match="no such row or group: densse; did you mean dense"):
        program.main([*fast, "densse"])


@pytest.mark.full
def test_a_kill_loses_no_row_that_was_stored(tmp_path):
    names = ["law: dense", "law: embedding", "law: flatten", "dropout"]
    fast = ["--tiny", "--results", str(tmp_path), "--budget", "0.01", "--rounds", "3", *names]
    first = start(*fast)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    stored = [json.loads(path.read_text()) for path in tmp_path.glob("*/*.json")]
    count = sum(len(file["rows"]) for file in stored)
    assert count
    printed, errors = start(*fast).communicate(timeout=300)
    kept = [line for line in printed.splitlines() if "are kept from an earlier run" in line]
    assert kept, errors
    assert int(kept[0].split()[0]) >= count


# The page


def timed(seconds):
    return {"status": "ok", "forward": {"median": seconds, "low": seconds, "high": seconds}}


def stored(group, rows):
    runs = {"2026-01-02T00:00:00Z": CONDITIONS}
    named = {name: {**row, "run": "2026-01-02T00:00:00Z"} for name, row in rows.items()}
    return {"group": group, "device": DEVICE, "runs": runs, "rows": named}


def test_the_page_says_what_is_right_and_which_method_is_faster(tmp_path):
    right_row = {"op": "laws", "question": "Dense(3)", "figure": "", "bound": "", "holds": True}
    rows = {
        "law: dense": {**right_row, "errors": {"float32": 1e-3, "bfloat16": 4e-3}},
        "law: gru": {**right_row, "errors": {"float32": 2e-3}},
        "law: lstm": {**right_row, "holds": False, "figure": "float32: off", "errors": {}},
    }
    results.write(tmp_path, stored("laws", rows), [])
    copy = {"op": "roofline", "question": "a copy", "figure": "3 TB/s", "bound": "", "holds": True}
    results.write(tmp_path, stored("roofline", {"copy": copy}), [])
    candidates = {"jlayers": timed(0.002), "jlayers patches": timed(0.001), "nnx": timed(0.003)}
    row = {"op": "conv", "floor": {"forward": 0.001}, "frameworks": candidates}
    results.write(tmp_path, stored("conv", {"conv-x": row}), [])
    (files,) = results.devices(tmp_path).values()
    text = "\n".join(report.device_part(files, report.in_order(files)))
    assert text.startswith("## X (GPU)")
    assert "2 of 3 layers are right, against float64." in text
    assert "float32 2e-03 (law: gru), bfloat16 4e-03 (law: dense)" in text
    assert "| `law: lstm` | Dense(3) | float32: off |  | missed |" in text
    assert "| `copy` | a copy | 3 TB/s |  |  |" in text
    assert "than the one that was chosen: conv-x (forward, jlayers patches 2.00x)." in text


def test_a_queue_of_calls_is_timed_as_one_of_them():
    from bench import timing

    calls = []

    def call(times):
        calls.append(times)
        time.sleep(1e-4 * times)

    (timing_of_one,) = timing.queued({"a": call}, 0.05, 20).values()
    assert max(calls) > 9
    assert timing_of_one.median < 2e-3
    assert np.isfinite(timing_of_one.high)


def test_items_of_operations_hold_no_time_to_compile():
    row = {"frameworks": {"jlayers": {"status": "ok", "forward": {"median": 1, "compile": 2}}}}
    assert operations.without_compilation(row)["frameworks"]["jlayers"]["forward"] == {"median": 1}
    assert roofline.roofline().group == "roofline"
