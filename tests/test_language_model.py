"""The job of ``make run-lm``: its text, the compressors, the measure, a tiny run."""

import bz2
import json
import lzma
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl
from jlayers import training

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def as_optax_wants_it():
    """optax multiplies numbers of different types."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def text(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return __import__("text")


@pytest.fixture
def lm(text):
    return __import__("language_model")


def test_every_twentieth_file_is_held_out(text, tmp_path):
    names = [f"b{i:02}.py" for i in range(33)] + ["a/z.py", "a.py"]
    for name in [*names, "test/x.py", "a/tests/y.py", "encodings/cp1.py", "b00.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(f"<{name}>".encode())
    found = text.standard_library(tmp_path)
    # Sorted: a.py, a/z.py, b00.py, ...
    assert found.files == ["b08.py", "b28.py"]
    assert found.held_out.tobytes() == b"<b08.py><b28.py>"
    rest = [name for name in sorted(names) if name not in found.files]
    assert found.train.tobytes() == "".join(f"<{name}>" for name in rest).encode()


def test_the_real_library_is_read_the_same_each_time(text):
    one, other = text.standard_library(), text.standard_library()
    assert one.files == other.files
    assert len(one.files) >= 10
    for a, b in zip(one[:2], other[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    assert 0.02 < len(one.held_out) / len(one.train) < 0.2
    assert not [name for name in one.files if re.search("(^|/)(tests?|site-packages)/", name)]


def test_compressors_alone_and_behind_the_other_text(text):
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, 1_000_000, np.uint8)
    found = text.packed(text.Text(train, train[:20_000], []))
    assert found["bz2"][0] == 8 * len(bz2.compress(train[:20_000].tobytes())) / 20_000 > 8
    assert found["xz"][0] == 8 * len(lzma.compress(train[:20_000].tobytes(), preset=9)) / 20_000
    # What stands 1 MB before is out of the reach of bz2, and not of xz. As bz2 goes on with a
    # block that it had started, it needs a little less than alone.
    assert 7.8 < found["bz2"][1] < found["bz2"][0]
    assert 0 <= found["xz"][1] < 1
    near = text.packed(text.Text(train[:20_000], train[:20_000], []))
    assert near["bz2"][1] < 4


def by_numpy(params, text):
    """Bits of each byte, with as many newlines before the text as the convolution looks back."""
    table, conv = params["embedding"]["embedding"], params["conv"]
    width = len(conv["kernel"])
    seen = np.asarray(table, np.float64)[np.concatenate([np.full(width, 10), text])]
    costs = []
    for i, byte in enumerate(text):
        logits = np.einsum("ki,kio->o", seen[i : i + width], np.float64(conv["kernel"]))
        logits += conv["bias"]
        costs.append(np.log2(np.exp(logits).sum()) - logits[byte] / np.log(2))
    return np.array(costs)


def test_bits_per_byte_are_those_of_numpy(lm):
    text = np.random.default_rng(1).integers(0, 256, 1000, np.uint8)
    model = jl.serial(jl.Embedding(256, 4), jl.Conv(256, 5, padding="CAUSAL"))
    params, state = model.init(jax.random.key(0), jl.spec((1, 8), jnp.int32))
    params = jax.tree.map(lambda leaf: 3 * leaf + 0.1, params)
    run = training.TrainState(0, params, state, (), jax.random.key(0))
    expected = by_numpy(params, text)
    assert len(text) % lm.SCORED  # the last window is not full
    got = lm.bits_of(model, text)(run)["loss"]
    np.testing.assert_allclose(got, expected.mean(), rtol=1e-5)
    got = lm.bits_of(model, text, every=2)(run)["loss"]
    looked_at = np.arange(1000) // lm.SCORED % 2 == 0
    np.testing.assert_allclose(got, expected[looked_at].mean(), rtol=1e-5)


def log_of(name):
    lines = pathlib.Path("runs/lm", name, "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.full
def test_a_tiny_run_and_its_resumption(lm, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole = text.standard_library()
    tiny = text.Text(whole.train[:20_000], whole.held_out[:2_000], whole.files)
    monkeypatch.setattr(lm, "standard_library", lambda: tiny)

    def jobs(steps):
        sizes = {"rate": 0.02, "rows": 4, "length": 32, "steps": steps}
        return {
            "lstm": lm.Job(lm.lstm(16), **sizes),
            "transformer": lm.Job(lm.transformer(16, heads=2, blocks=1, window=16), **sizes),
        }

    monkeypatch.setattr(lm, "JOBS", jobs(10))
    lm.main([])
    shown = capsys.readouterr().out
    for name in ("lstm", "transformer"):
        log = log_of(name)
        assert [row["step"] for row in log] == list(range(1, 11))
        assert log[-1]["eval/loss"] < log[0]["eval/loss"] < 8.5
        reached = float(re.search(rf"│ {name} .* ([\d.]+) +│", shown).group(1))
        assert abs(reached - log[-1]["eval/loss"]) < 0.5  # one is of a part of the text
        samples = pathlib.Path("runs/lm", name, "samples.txt").read_text("utf-8")
        assert samples.startswith("def ")
        assert "\n\nclass " in samples
    assert pathlib.Path("runs/lm/bits.png").read_bytes().startswith(b"\x89PNG")

    first = log_of("lstm")
    monkeypatch.setattr(lm, "JOBS", jobs(12))
    lm.main(["--only", "lstm"])
    assert log_of("lstm")[:10] == first
    assert [row["step"] for row in log_of("lstm")[10:]] == [11, 12]

    lm.main(["--only", "lstm", "--fresh"])
    assert [row["step"] for row in log_of("lstm")] == list(range(1, 13))
    assert log_of("lstm")[0]["loss"] == first[0]["loss"]
    assert log_of("lstm")[0]["seconds"] != first[0]["seconds"]
