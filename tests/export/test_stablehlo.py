"""export.stablehlo: a file that runs without jlayers, and says what is wrong with it."""

import json
import os
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.tiers import named

import jlayers as jl

KEY = jax.random.key(0)


def written(folder, model, x, dtype=jnp.float32, **options):
    path = folder / "model.zip"
    params, state = model.init(KEY, x)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    options = {"platforms": ["cpu"], **options}
    jl.export.stablehlo(model, params, state, x, path, **options)

    def run(x):
        return model.apply(params, state, x)[0]

    return path, run


def floats(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def test_any_batch_and_any_time(tmp_path):
    model = jl.serial(jl.Conv(4, 3, padding="CAUSAL"), jax.nn.relu, jl.BatchNorm(), jl.LSTM(3))
    path, run = written(tmp_path, model, jl.spec((2, 5, 4)), time="t")
    loaded = jl.export.load(path)
    assert loaded.manifest["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["b", "t", 4]}]
    for x in (floats(3, 7, 4), floats(1, 2, 4)):
        np.testing.assert_allclose(loaded(x), run(x), rtol=1e-5, atol=1e-6)
    assert loaded.verify() < 1e-5
    assert list(loaded.weights) == [
        *("params/batch_norm/bias", "params/batch_norm/scale", "params/conv/bias"),
        *("params/conv/kernel", "params/lstm/bias", "params/lstm/kernel"),
        *("params/lstm/recurrent_kernel", "state/batch_norm/mean", "state/batch_norm/var"),
    ]
    assert os.listdir(tmp_path) == [path.name]


def test_it_runs_and_checks_itself_in_a_process_without_jlayers(tmp_path):
    model = jl.serial(jl.Dense(3), jnp.tanh)
    path, run = written(tmp_path, model, jl.spec((2, 4)))
    x = floats(3, 4)
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys; sys.modules['jlayers'] = None\n"
        f"import numpy as np; sys.path.insert(0, {str(path)!r})\n"
        "from standalone import load\n"
        f"model = load({str(path)!r})\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, model(np.load({str(tmp_path / 'x.npy')!r})))\n"
    )
    # Where the package is not on the path of imports.
    environment = {**os.environ, "PYTHONPATH": "", "PYTHONSAFEPATH": "1"}

    def process(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env=environment,
        )

    done = process("-c", code)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), run(x), rtol=1e-5, atol=1e-6)
    done = process(str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "serial(Dense(3), jax.nn.tanh)"
    assert "2 test vectors on cpu: largest difference" in done.stdout


def test_platforms_that_are_not_here(tmp_path):
    model = jl.serial(jl.Dense(3), jl.LayerNorm(), jl.MaxPool(2))
    path, run = written(tmp_path, model, jl.spec((2, 6, 4)), platforms=["cpu", "cuda", "tpu"])
    x = floats(3, 6, 4)
    np.testing.assert_allclose(jl.export.load(path)(x), run(x), rtol=1e-5, atol=1e-6)


TREES = {
    "sequence": (
        jl.LSTM(3),
        jl.Sequence.from_lengths(floats(2, 5, 4), [5, 3]),
        {"dict": {"values": 0, "mask": 1}},
    ),
    "several": (
        jl.branch(a=jl.Dense(2), b=jl.serial(jl.Dense(3), jl.branch(jnp.sin, jnp.cos))),
        floats(2, 4),
        {"dict": {"a": 0, "b": {"tuple": [1, 2]}}},
    ),
}


@pytest.mark.parametrize("name", named(TREES, "sequence"))
def test_trees_of_inputs_and_outputs(tmp_path, name):
    model, x, structure = TREES[name]
    path, run = written(tmp_path, model, x)
    loaded = jl.export.load(path)
    assert loaded.manifest["output"] == structure
    got, wanted = jax.tree.leaves(loaded(x)), jax.tree.leaves(run(x))
    for have, want in zip(sorted(got, key=jnp.ndim), sorted(wanted, key=jnp.ndim), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


def test_blocks(tmp_path):
    model = jl.serial(
        jl.Conv(4, 3, padding="CAUSAL"), jax.nn.relu, jl.SelfAttention(2, causal=True)
    )
    path, run = written(tmp_path, model, jl.spec((2, 6, 4)), stream=2, capacity=6)
    loaded, x = jl.export.load(path), floats(2, 6, 4)
    carry, outputs = loaded.start(x[:, :2]), []
    for i in range(0, 6, 2):
        y, carry = loaded.step(carry, x[:, i : i + 2])
        outputs.append(y)
    np.testing.assert_allclose(np.concatenate(outputs, 1), run(x), rtol=1e-5, atol=1e-5)
    written(tmp_path, jl.Dense(3), jl.spec((2, 4)))
    with pytest.raises(jl.LayerError, match="the file has no program 'step'"):
        jl.export.load(path).step({}, floats(2, 4))
    with pytest.raises(jl.LayerError) as caught:
        loaded.step({}, x[:, :2])
    assert (
        caught.value.problem == f"{loaded._name}: the carry is not one of this model and its blocks"
    )
    assert caught.value.hint == "carry = model.start(block); y, carry = model.step(carry, block)"
    with pytest.raises(jl.LayerError, match=r"another shape(?s:.*)expected: float32\[2, 2, 4"):
        loaded.step(carry, x[:, :3])


def test_dtypes_of_weights(tmp_path):
    model = jl.serial(jl.Dense(3))
    x = jl.spec((2, 4), jnp.bfloat16)
    path, run = written(tmp_path, model, x, jnp.bfloat16)
    loaded = jl.export.load(path)
    assert loaded.weights["params/dense/kernel"].dtype == jnp.bfloat16
    given = floats(2, 4).astype(jnp.bfloat16)
    np.testing.assert_array_equal(loaded(given), run(given))


def lambda_of_steps():
    return jl.serial(lambda x: x if x.shape[1] > 3 else -x)


def test_what_cannot_be_exported_says_why(tmp_path):
    def called_back(x):
        return jax.pure_callback(np.sin, x, x)

    with pytest.raises(jl.LayerError) as caught:
        written(tmp_path, jl.serial(called_back), jl.spec((2, 4)), batch=None)
    assert "an operation that JAX does not promise to run in other versions" in str(caught.value)
    assert "callback" in caught.value.got
    with pytest.raises(jl.LayerError) as caught:
        written(tmp_path, lambda_of_steps(), jl.spec((2, 6, 4)), time="t")
    assert "cannot be exported with sizes that are not known" in str(caught.value)
    assert caught.value.hint == 'batch=None, time=None, or constraints=["t >= 8"]'
    with pytest.raises(jl.LayerError, match="cannot be streamed"):
        written(tmp_path, jl.GRU(3, reverse=True), jl.spec((2, 6, 4)), stream=1)
    with pytest.raises(jl.LayerError, match="platforms must be a list of platforms of JAX"):
        written(tmp_path, jl.Dense(3), jl.spec((2, 4)), platforms=["vax"])
    assert os.listdir(tmp_path) == []
    with pytest.raises(jl.CheckpointError, match="the model could not be written to"):
        written(tmp_path / "missing", jl.Dense(3), jl.spec((2, 4)))


def test_a_call_that_does_not_fit_says_what_was_expected_and_got(tmp_path):
    model = jl.serial(jl.Embedding(7, 3), jl.Conv(2, 3, padding="CAUSAL"))
    path, _ = written(tmp_path, model, np.ones((2, 4), int), time="2*t", constraints=["t <= 3"])
    ids = np.ones((3, 6), int)
    wrong = [
        ((ids, ids), "takes other inputs", "x/0 int64[3, 6], x/1 int64[3, 6]", "arrays in this"),
        (({"ids": ids},), "takes other inputs", "x/ids int64[3, 6]", "arrays in this order, or"),
        (([[1, 2]],), "takes other inputs", "x/0/0 1, x/0/1 2", "np.asarray(x): a list is a tree"),
        ((None,), "takes other inputs", "no arrays", "arrays in this order"),
        (("text",), "the input 'x' must be an array", "'text'", None),
        ((ids[0],), "the input 'x' has another shape", "int32[6]", "x[None] is a batch of one"),
        ((ids[:0],), "the input 'x' has another shape", "int32[0, 6]", "b is at least 1"),
        ((ids[:, 1:],), "another shape", "int32[3, 5]", "2*t is at least 2, and a multiple of 2"),
        ((ids * 1.0,), "the input 'x' has another dtype", "float32[3, 6]", "x.astype('int32')"),
        ((ids + 2**40,), "the input 'x' has integers that do not fit", str(2**40 + 1), None),
        ((np.ones((3, 8), int),), "cannot run on these sizes", "int32[3, 8]", None),
    ]
    for arguments, problem, got, hint in wrong:
        with pytest.raises(jl.LayerError) as caught:
            jl.export.load(path)(*arguments)
        assert f"{path}: " in caught.value.problem
        assert problem in caught.value.problem
        assert "int32[b, 2*t]" in caught.value.expected
        assert caught.value.got == got
        assert (caught.value.hint or "").startswith(hint or "")
    assert "and t <= 3" in caught.value.expected
    with pytest.raises(jl.LayerError, match="JAX cannot transform the program"):
        jax.vmap(jl.export.load(path))(ids[None])


def test_inputs_with_names_go_by_them_and_others_by_their_order(tmp_path):
    model = jl.compose(lambda f, x: f.left(x["left"]) - x["a"], left=jl.Dense(3))
    x = {"left": floats(2, 3), "a": np.ones((2, 3), "float32")}
    path, run = written(tmp_path, model, x)
    loaded = jl.export.load(path)
    assert [one["name"] for one in loaded.manifest["inputs"]] == ["x/a", "x/left"]
    for given in ((x,), (x["a"], x["left"])):
        np.testing.assert_allclose(loaded(*given), run(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(
        jl.LayerError, match=r"takes other inputs(?s:.*)x/a float32\[2, 3\], x/right"
    ):
        loaded({"a": x["a"], "right": x["left"]})
    with pytest.raises(jl.LayerError, match=r"'x/left' has another shape(?s:.*)b is 2 elsewhere"):
        loaded(x["a"], floats(3, 3))


def test_sizes_that_a_file_cannot_have(tmp_path):
    model, x = jl.Dense(3), jl.spec((2, 5, 4))
    for options, text in (
        ({"batch": "my batch"}, "batch must be a name for a size"),
        ({"batch": 3}, "batch must be a name for a size"),
        ({"time": "b"}, "batch and time must have names of their own"),
        ({"time": "2*t"}, r"a size of x cannot be '2\*t'(?s:.*)a multiple of 2(?s:.*)got: +5"),
        ({"constraints": "b >= 2"}, "constraints must be a list of comparisons"),
        ({"constraints": ["b > 2"]}, "constraints must be a list of comparisons"),
        ({"constraints": ["b >= 3"]}, "x is not of the sizes that constraints allow"),
    ):
        with pytest.raises(jl.LayerError, match=text):
            written(tmp_path, model, x, **options)
    path, _ = written(tmp_path, model, x, constraints=["b <= 2"])
    assert len(jl.export.load(path).manifest["vectors"]) == 1


def test_a_platform_that_is_not_here(tmp_path):
    path, _ = written(tmp_path, jl.Dense(3), jl.spec((2, 4)), platforms=["tpu"])
    with pytest.raises(jl.LayerError, match=r"not written for the platform that is here(?s:.*)tpu"):
        jl.export.load(path)(floats(2, 4))


def test_paths(tmp_path):
    path, run = written(tmp_path, jl.Dense(3), jl.spec((2, 4)))
    x = floats(2, 4)
    np.testing.assert_allclose(jl.export.load(os.fsencode(path))(x), run(x), rtol=1e-5, atol=1e-6)
    for wrong in (None, 5):
        with pytest.raises(jl.CheckpointError, match="path must be that of a file"):
            jl.export.load(wrong)
    with pytest.raises(jl.CheckpointError, match=r"could not be written(?s:.*)got: +a folder"):
        jl.export.stablehlo(jl.Dense(3), *jl.Dense(3).init(KEY, x), x, tmp_path)
    jl.save_model(path, jl.Dense(3), *jl.Dense(3).init(KEY, x))
    with pytest.raises(jl.CheckpointError, match="files of save_model are for load_model"):
        jl.export.load(path)


def rewritten(path, changes, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries |= changes
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            if data is not None:
                archive.writestr(name, data)


def test_damage_names_the_file_and_the_entry(tmp_path):
    path, _ = written(tmp_path, jl.Dense(3), jl.spec((2, 4)))
    data = path.read_bytes()

    def problem():
        with pytest.raises(jl.CheckpointError) as caught:
            jl.export.load(path)
        path.write_bytes(data)
        return str(caught.value)

    manifest = json.loads(zipfile.ZipFile(path).read("manifest.json"))
    place = data.index(np.asarray(jl.export.load(path).weights["params/kernel"]).tobytes())
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    assert "Bad CRC-32 for file 'weights.bin'" in problem()
    path.write_bytes(data[:-30])
    assert f"cannot read {path}" in problem()
    rewritten(path, {"apply.bin": None})
    assert "apply.bin is missing" in problem()
    rewritten(path, {"weights.bin": b"1234"})
    assert "the numbers of 'params/bias' are missing" in problem()
    rewritten(path, {}, zipfile.ZIP_DEFLATED)
    assert "is compressed" in problem()
    rewritten(path, {"manifest.json": json.dumps(manifest | {"version": 2})})
    assert "its version is 2, and this reads 1" in problem()
    rewritten(path, {"manifest.json": "[]"})
    assert "manifest.json" in problem()
    rewritten(path, {"manifest.json": json.dumps(manifest | {"output": {"tuple": [0, 1]}})})
    assert "manifest.json: list index out of range" in problem()
    turned = [entry | {"shape": entry["shape"][::-1]} for entry in manifest["weights"]]
    rewritten(path, {"manifest.json": json.dumps(manifest | {"weights": turned})})
    assert "the weights are not those of apply.bin" in problem()
    rewritten(path, {"manifest.json": json.dumps(manifest | {"programs": []})})
    assert "it has no program 'apply'" in problem()
    kept = {name: value for name, value in manifest.items() if name != "repr"}
    rewritten(path, {"manifest.json": json.dumps(kept)})
    assert "repr is missing" in problem()
    # Bit 0 of the flags of the first entry, in the directory at the end.
    place = data.index(b"PK\1\2") + 8
    path.write_bytes(data[:place] + b"\1" + data[place + 1 :])
    assert "encrypted" in problem()
    rewritten(path, {"apply.bin": b"1234"})
    assert f"apply.bin, written by jax {jax.__version__}, cannot be read by jax" in problem()
    path.unlink()
    with pytest.raises(jl.CheckpointError, match="No such file"):
        jl.export.load(path)
