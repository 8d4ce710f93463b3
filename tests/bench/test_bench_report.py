"""What the benchmark reports about stored results: ratios, the page and the picture."""

import json

import pytest

from bench import device, ratios, report, results, tables

pytestmark = pytest.mark.full


def timed(seconds, **rest):
    return {"status": "ok", "forward": {"median": seconds, "low": seconds, "high": seconds, **rest}}


STORED = {
    "x-1": {
        "op": "conv",
        "floor": {"forward": 0.001},
        "others": 0.5,
        "run": "2026-01-02T00:00:00Z",
        "frameworks": {
            "jlayers": timed(0.002, temp_bytes=2e6),
            "lax": timed(0.006, temp_bytes=8e6),
            "nnx": timed(0.004, temp_bytes=9e6),
            "haiku": {"status": "wrong", "reason": "forward: `y`[1][0] off | by far"},
            "torch": timed(0.001),
        },
    },
    "x-2": {
        "op": "conv",
        "floor": {"forward": 0.001},
        "run": "2026-01-03T00:00:00Z",
        "frameworks": {"jlayers": timed(0.002), "linen": timed(0.001)},
    },
    "x-4": {
        "op": "step",
        "run": "2026-01-03T00:00:00Z",
        "frameworks": {
            "by hand": timed(2.0),
            "jlayers, 32 steps a call": timed(1.0),
            "jlayers": timed(2.0),
        },
    },
    "x-3": {
        "op": "conv",
        "run": "2026-01-03T00:00:00Z",
        "frameworks": {"jlayers": {"status": "missing", "reason": "none yet"}, "nnx": timed(1.0)},
    },
}


def test_ratios_are_to_the_fastest_peer():
    r = ratios.ratios(STORED["x-1"], "forward")
    assert (r.peer, r.to_peer, r.to_lax, r.to_torch, r.to_floor) == ("nnx", 2.0, 3.0, 0.5, 2.0)
    assert ratios.ratios(STORED["x-3"], "forward").to_peer is None
    assert ratios.geometric_mean([2.0, None, 8.0]) == pytest.approx(4.0)
    assert ratios.geometric_mean([None]) is None
    assert "1.00x as fast as the best JAX peer" in tables.means(list(STORED.values()))


def test_the_page_and_the_picture_come_from_what_is_stored(tmp_path):
    versions = {
        "versions": {"lax": "0.10.2", "jaxlib": "0.10.1"},
        "variables": {"XLA_FLAGS": "--x"},
    }
    for name, platform in [("AMD Something", "cpu"), ("NVIDIA Other", "gpu")]:
        stored = {
            "group": "conv",
            "device": {"slug": platform, "name": name, "platform": platform, "count": 2},
            "runs": {f"2026-01-0{day}T00:00:00Z": versions for day in (1, 2, 3)},
            "rows": STORED,
        }
        results.write(tmp_path, stored, ["x-2", "x-1", "x-3", "x-4", "gone"])
    kept = json.loads((tmp_path / "cpu" / "conv.json").read_text())["rows"]
    assert list(kept) == ["x-2", "x-1", "x-3", "x-4"]
    page, picture = report.write(tmp_path, tmp_path)
    text = page.read_text()
    assert text.index("## AMD Something, 2 cores (CPU)") < text.index("## NVIDIA Other (GPU)")
    assert (
        "Measured 2026-01-02 to 2026-01-03 with jax 0.10.2, jaxlib 0.10.1. Set: `XLA_FLAGS=--x`."
        in text
    )
    assert "| conv | forward | 3 of 4 | 1.00x | 3.00x | 0.50x | 2.00x |" in text
    roofline = "needed / ours / best peer's ms"
    assert f"| row |  | {roofline} | than the best peer |" in text
    assert "| `x-1` | forward | 1 / 2 / 4 | 2.00x nnx | 3.00x | 0.50x | 2.00x | 2.0 (9.0) |" in text
    assert "| `x-4` | forward | - / " in text
    assert (
        "| row | jlayers | jlayers, 32 steps a call | lax | linen | nnx | haiku | torch | by hand |"
        in text
    )
    assert "| `x-1` | 2 | - | 6 | - | 4 | wrong | 1 | - |" in text
    assert "Behind the best peer (below 0.97x): x-2 (forward, 0.50x of linen)." in text
    assert "x-1: haiku (`forward: 'y'[1][0] off | by far`)" in text
    assert "not to be trusted: x-1 (50%)" in text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_report_of_nothing_is_still_a_page(tmp_path):
    (page,) = report.write(tmp_path / "none", tmp_path)
    assert "How it is measured" in page.read_text()
    assert "nothing has been measured yet" in page.read_text()


def test_a_peer_that_runs_the_same_program_is_behind_by_noise(tmp_path):
    def row(digest):
        frameworks = {"jlayers": timed(0.002, digest="a"), "nnx": timed(0.001, digest=digest)}
        return {"op": "conv", "run": "2026-01-02T00:00:00Z", "frameworks": frameworks}

    rows = {"x-same": row("a"), "x-other": row("b"), "x-unknown": row(None)}
    assert [ratios.ratios(r, "forward").same for r in rows.values()] == [True, False, False]
    text = report.remarks(rows)
    assert "Behind the best peer (below 0.97x): x-other (forward, 0.50x of nnx); x-unknown" in text
    assert (
        "the peer's compiled program is the same as ours: x-same (forward, 0.50x of nnx)." in text
    )


CPUINFO = """processor : 0
model name\t: AMD EPYC
cpu family\t: 25
model\t\t: {model}
flags\t\t: fpu avx2 avx512f {flags}

processor : 1
model\t\t: 99
"""


def test_generations_under_one_name_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.device.CPUINFO", tmp_path / "cpuinfo")
    assert device.processor_model() == ""
    found = []
    for model, flags in ((17, "avx512_bf16"), (1, "")):
        (tmp_path / "cpuinfo").write_text(CPUINFO.format(model=model, flags=flags))
        found.append(device.device())
    assert [each["model"] for each in found] == [
        "family 25, model 17, AVX-512 BF16",
        "family 25, model 1, AVX-512",
    ]
    genoa, milan = found
    assert genoa["slug"] == milan["slug"]
    assert genoa["slug"].endswith("-cores-amd-epyc")

    # A folder from before has no model, and goes on; another model then has its own.
    old = {name: value for name, value in genoa.items() if name != "model"}
    row = {"op": "conv", "run": "a", "frameworks": {"jlayers": timed(1.0)}}
    for group in ("conv", "norm"):
        stored = {"group": group, "device": old, "runs": {"a": {}}, "rows": {"x-1": row}}
        results.write(tmp_path, stored, [])
    assert results.placed(tmp_path, genoa) == genoa
    stored = results.read(tmp_path, genoa, "conv")
    assert stored["rows"] == results.as_stored({"x-1": row})
    results.write(tmp_path, stored, [])
    assert results.placed(tmp_path, genoa) == genoa
    own = results.placed(tmp_path, milan)
    assert own["slug"] == f"{milan['slug']}-family-25-model-1-avx-512"
    assert results.read(tmp_path, own, "conv")["rows"] == {}
    files = results.devices(tmp_path)[genoa["slug"]]
    assert "(family 25, model 17, AVX-512 BF16), " in report.title(files)


def test_a_table_names_its_jaxlib_and_its_processor():
    runs = {
        "a": {"versions": {"jaxlib": "0.10.2"}},
        "b": {"versions": {"jaxlib": "0.12.0"}, "processor": "family 25, model 17"},
    }
    rows = {name: {"run": run} for name, run in (("x", "a"), ("y", "b"))}
    assert report.jaxlibs(rows, runs) == "jaxlib 0.10.2 and 0.12.0; family 25, model 17."
    assert report.jaxlibs({}, runs) == "jaxlib unknown."


def test_questions_say_what_is_needed():
    row = {"question": "a token", "figure": "1x", "bound": "1x", "holds": True, "needed": 0.002}
    assert tables.questions_table({"t": row}).lines == [["t", "a token", "1x", "1x", "", "2"]]
    del row["needed"]
    assert tables.questions_table({"t": row}).lines[0][-1] == "-"
