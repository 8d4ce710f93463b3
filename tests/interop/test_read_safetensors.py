"""Safetensors by ``interop.read``: mapped, with every dtype, in one file and in several."""

import json

import ml_dtypes
import numpy as np
import pytest
from oracles import mutations
from oracles.torch_files import legacy, tensor
from safetensors.numpy import save_file

import jlayers as jl

W = np.arange(24, dtype=np.float32).reshape(4, 6)
ARRAYS = {
    "w": W,
    "b": np.arange(6).astype(ml_dtypes.bfloat16),
    "fp8": np.arange(3).astype(ml_dtypes.float8_e4m3fn),
    "fp8_5": np.arange(3).astype(ml_dtypes.float8_e5m2),
    "flags": np.array([True, False]),
    "scalar": np.array(3),
    "empty": np.zeros((0, 3), np.float16),
    "complex": np.array([1j], np.complex64),
}


def write(path, arrays):
    save_file(arrays, path, metadata={"format": "pt"})
    return path


@pytest.fixture
def sharded(tmp_path):
    """Two files, and the index that says what is where."""
    names = list(ARRAYS)
    parts = {"model-00001-of-00002.safetensors": names[:3]}
    parts["model-00002-of-00002.safetensors"] = names[3:]
    for file, part in parts.items():
        write(tmp_path / file, {name: ARRAYS[name] for name in part})
    places = {name: file for file, part in parts.items() for name in part}
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    return path


def assert_equal(arrays):
    assert set(arrays) == set(ARRAYS)
    for name, want in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], want, strict=True)


@pytest.mark.parametrize("second", [2, 3, 0xA1])
def test_a_header_whose_length_begins_as_another_format(tmp_path, second):
    """As a pickle of protocol 2 or 3, or a map of msgpack, would begin."""
    first = 0x80 if second < 6 else 0x81
    header = json.dumps({"w": {"dtype": "F32", "shape": [4, 6], "data_offsets": [0, W.nbytes]}})
    length = first + 256 * second
    path = tmp_path / "model.safetensors"
    data = length.to_bytes(8, "little") + header.encode().ljust(length) + W.tobytes()
    for name in ("model.safetensors", "pytorch_model"):
        (tmp_path / name).write_bytes(data)
        np.testing.assert_array_equal(jl.interop.read(tmp_path / name)["w"], W)
    assert list(jl.checkpoint.read_safetensors(path)) == ["w"]


def test_one_file(tmp_path):
    arrays = jl.interop.read(write(tmp_path / "model.safetensors", ARRAYS))
    assert_equal(arrays)
    assert not arrays["w"].flags.owndata
    # In the order of the file, which is that of jl.checkpoint.read_safetensors.
    path = tmp_path / "model.safetensors"
    assert list(arrays) == list(jl.checkpoint.read_safetensors(path))
    # Under any name.
    assert_equal(jl.interop.read(path.rename(tmp_path / "weights")))


def test_packed_numbers(tmp_path):
    header = b'{"a":{"dtype":"F4","shape":[2,2],"data_offsets":[0,2]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x42\x10")
    want = np.array([[1, 2], [0, 0.5]], ml_dtypes.float4_e2m1fn)
    np.testing.assert_array_equal(jl.interop.read(path)["a"], want, strict=True)


def test_several_files(sharded):
    arrays = jl.interop.read(sharded)
    assert list(arrays) == list(ARRAYS)
    assert_equal(arrays)
    assert_equal(jl.interop.read(sharded.parent))


def test_a_folder_with_one_file(tmp_path):
    write(tmp_path / "model.safetensors", ARRAYS)
    assert_equal(jl.interop.read(tmp_path))


def test_several_files_of_torch(tmp_path):
    memory = W.reshape(-1)
    for i in range(2):
        part = legacy({f"layer.{i}": tensor(memory, "a")}, {"a": memory})
        (tmp_path / f"pytorch_model-{i}.bin").write_bytes(part)
    places = {f"layer.{i}": f"pytorch_model-{i}.bin" for i in range(2)}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert list(jl.interop.read(tmp_path)) == ["layer.0", "layer.1"]


SECOND = "model-00002-of-00002.safetensors"
WRONG_INDICES = {
    "no json": ("{", "is not JSON"),
    "no map": ('{"weight_map": []}', "a 'weight_map' of names to files"),
    "deep": ("[" * 100_000, "is not JSON"),
    "twice": ('{"weight_map": {"a": "b", "a": "c"}}', "has one name twice"),
    "outside": ('{"weight_map": {"a": "../b"}}', "(?s)a wrong file for 'a'.*beside the index"),
    "number": ('{"weight_map": {"a": 1}}', "a wrong file for 'a'"),
    "missing": ('{"weight_map": {"a": "b.bin"}}', "names 'b.bin', which is missing"),
    "elsewhere": (f'{{"weight_map": {{"w": "{SECOND}"}}}}', f"says that 'w' is in '{SECOND}'"),
}


@pytest.mark.parametrize("case", WRONG_INDICES)
def test_a_wrong_index(sharded, case):
    content, text = WRONG_INDICES[case]
    sharded.write_text(content)
    with pytest.raises(jl.InteropError, match=text) as caught:
        jl.interop.read(sharded)
    assert str(sharded) in str(caught.value)


def test_an_array_in_two_files(sharded):
    write(sharded.parent / SECOND, {name: ARRAYS[name] for name in list(ARRAYS)[2:]})
    with pytest.raises(jl.InteropError, match=f"{SECOND} has 'fp8', which is in another file"):
        jl.interop.read(sharded)


def test_arrays_beside_the_index_are_read(sharded):
    index = json.loads(sharded.read_text())
    del index["weight_map"]["w"]
    sharded.write_text(json.dumps(index))
    assert_equal(jl.interop.read(sharded))


def test_damaged_files(tmp_path):
    path = write(tmp_path / "model.safetensors", ARRAYS)
    content = path.read_bytes()
    for damaged in (content[:-1], content + b"\0", content[:20], b"\xff" * 8 + content[8:]):
        path.write_bytes(damaged)
        with pytest.raises(jl.InteropError, match=f"{path} is damaged"):
            jl.interop.read(path)
    path.write_bytes(b"")
    with pytest.raises(jl.InteropError, match="is empty"):
        jl.interop.read(path)


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.soak)])
def test_mutations(tmp_path, count):
    path = write(tmp_path / "model.safetensors", ARRAYS)
    assert mutations.check(path, count, "safetensors") > count / 4


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.soak)])
def test_mutated_indices(sharded, count):
    assert mutations.check(sharded, count, "safetensors-index") > count / 4
