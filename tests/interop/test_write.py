"""interop.write: each format is read back, by its own library too; a failure changes nothing."""

import flax.serialization
import h5py
import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint
import pytest
import safetensors
import safetensors.numpy

import jlayers as jl
from jlayers.interop.formats import flax as flax_format

F = jl.interop
WRITTEN = {name: known.writer for name, known in F.FORMATS.items() if known.writer is not None}
RNG = np.random.default_rng(0)
NAMES = {"hdf5": "layers/dense_{}/vars/0", "flax": "params/a{}/b", "orbax": "a/b{}"}


def draw(dtype, shape=(2, 3)):
    return (3 * RNG.standard_normal(shape)).astype(dtype)


def same(have, want):
    assert (have.dtype, have.shape) == (want.dtype, want.shape)
    assert have.tobytes() == want.tobytes()


def test_the_formats_that_are_written():
    assert set(WRITTEN) == {"flax", "hdf5", "npy", "npz", "orbax", "safetensors", "torch"}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_was_written_is_read(name, tmp_path):
    writer = WRITTEN[name]
    arrays = [draw(dtype) for dtype in writer.dtypes] + [draw("float32", ()), draw("int32", (4,))]
    # orbax has no arrays without elements.
    arrays += [] if name == "orbax" else [np.zeros((0, 3), np.float32)]
    form = NAMES.get(name, "a.{}")
    given = {form.format(i): array for i, array in enumerate(arrays)}
    given = {"": arrays[0]} if name == "npy" else given
    for suffix in writer.suffixes or ("",):
        path = tmp_path / f"model{suffix}"
        # Twice: an earlier file, or folder, is replaced.
        F.write(path, dict(list(given.items())[:1]), format=name)
        read = F.read(F.write(path, given, format=None if suffix else name))
        assert set(read) == set(given)
        for key, array in given.items():
            same(read[key], array)
    assert len(list(tmp_path.iterdir())) == max(len(writer.suffixes), 1)


def test_strides_byte_orders_and_jax_arrays(tmp_path):
    given = {
        "turned": np.arange(6.0).reshape(2, 3).T,
        "swapped": np.arange(3, dtype=">i4"),
        "jax": jl.Dense(2).init(jax.random.key(0), jl.spec((1, 3)))[0]["kernel"],
    }
    for suffix in (".safetensors", ".pt", ".npz", ".msgpack"):
        read = F.read(F.write(tmp_path / f"m{suffix}", given))
        for name, array in given.items():
            np.testing.assert_array_equal(read[name], array)
            assert read[name].dtype.isnative


def test_safetensors(tmp_path):
    given = {"a.weight": draw("float32"), "b": draw(ml_dtypes.bfloat16)}
    path = F.write(tmp_path / "model.safetensors", given)
    for name, array in safetensors.numpy.load_file(path).items():
        same(array, given[name])
    with safetensors.safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_npz_with_names_that_savez_cannot_have(tmp_path):
    given = {"file": draw("float32"), "module/~/linear|w": draw("int8"), "arr_0": draw("bool")}
    with np.load(F.write(tmp_path / "haiku.npz", given)) as read:
        assert read.files == list(given)
        for name, array in given.items():
            same(read[name], array)
    array = draw("complex64")
    same(np.load(F.write(tmp_path / "one.npy", {"any name": array})), array)


@pytest.mark.oracle("Flax")
def test_flax(tmp_path, monkeypatch):
    monkeypatch.setattr(flax_format, "_MOST_BYTES", 64)
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 64)
    given = {f"params/layer_{i}/kernel": draw("float32", (1, i)) for i in range(14)}
    given |= {
        "params/" + "long" * 20: draw(ml_dtypes.bfloat16),
        "params/pieces": draw("float32", (5, 11, 1)),
        "params/many axes": draw("int8", (1,) * 17),
        "params/wide": np.zeros((0, 300, 70_000), np.float32),
        "batch_stats/mean": draw("float64", ()),
        "batch_stats/kernel": draw(ml_dtypes.float8_e5m2, (4, 4, 3)),
    }
    # In the order in which JAX has dicts, since Flax writes a tree that went through it.
    path = F.write(tmp_path / "model.msgpack", dict(sorted(given.items())))
    tree = flax.serialization.msgpack_restore(path.read_bytes())
    for name, array in given.items():
        node = tree
        for step in name.split("/"):
            node = node[step]
        same(np.asarray(node), array)
    # Byte for byte what Flax itself writes.
    assert path.read_bytes() == flax.serialization.msgpack_serialize(tree)
    for name, array in F.read(path).items():
        same(array, given[name])


def test_orbax(tmp_path):
    given = {"a/b": draw("float32"), "a/c/d": draw(ml_dtypes.bfloat16)}
    path = F.write(tmp_path / "step", given, format="orbax")
    tree = orbax.checkpoint.PyTreeCheckpointer().restore(path)
    same(np.asarray(tree["a"]["b"]), given["a/b"])
    same(np.asarray(tree["a"]["c"]["d"]), given["a/c/d"])


def test_hdf5_as_keras_has_it(tmp_path):
    path = F.write(tmp_path / "m.weights.h5", {"layers/dense/vars/0": draw(ml_dtypes.bfloat16)})
    with h5py.File(path) as file:
        assert file["layers/dense/vars/0"].attrs["dtype"] == "bfloat16"


# What is wrong, and the text that says so.
A = np.ones(3, np.float32)
REFUSED = {
    "suffix": ("m.keras", {"a": A}, r"m.keras has a suffix that is not written"),
    "h5 of other versions": ("m.h5", {"a": A}, r"m.h5 has a suffix that is not written"),
    "bfloat16": (
        "m.npz",
        {"a": A.astype(ml_dtypes.bfloat16)},
        r"m.npz cannot be written: 'a' has a dtype that npz does not have\n.*float16.*\n.*bfloat16",
    ),
    "float8": (
        "m.weights.h5",
        {"layers/a/vars/0": A.astype(ml_dtypes.float8_e5m2)},
        r"'layers/a/vars/0' has a dtype that hdf5 does not have",
    ),
    "text": ("m.pt", {"a": np.array(["b"])}, "'a' has a dtype that torch does not have"),
    "objects": ("m.pt", {"a": [[1], [1, 2]]}, "'a' must be an array of numbers"),
    "parameters": ("m.pt", {"a": {"kernel": A}}, r"'a' must be an array(?s:.*)jl.flatten\(params"),
    "a number for a name": ("m.pt", {1: A}, "the names of arrays must be text"),
    "half a character": ("m.pt", {"\udc00": A}, "the names of arrays must be text"),
    "two in one npy": ("m.npy", {"a": A, "b": A}, "a .npy file has one array"),
    "an array and a group": ("m.msgpack", {"a": A, "a/b": A}, "'a/b' cannot be stored"),
    "a group and an array": ("m.msgpack", {"a/b": A, "a": A}, "'a' cannot be stored"),
    "metadata": ("m.safetensors", {"__metadata__": A}, "'__metadata__' cannot be the name"),
    "not numbered": (
        "m.weights.h5",
        {"dense/kernel": A},
        r"'dense/kernel' is not a name in a .weights.h5 file(\n.*)*keras_weights",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_changes_nothing(case, tmp_path):
    name, arrays, text = REFUSED[case]
    (tmp_path / name).write_bytes(b"what was there")
    with pytest.raises(jl.InteropError, match=text):
        F.write(tmp_path / name, arrays)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"what was there"


def test_a_format_that_is_only_read(tmp_path):
    with pytest.raises(jl.InteropError, match="the format 'onnx' is not written"):
        F.write(tmp_path / "m.onnx", {"a": A}, format="onnx")


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".msgpack", ".safetensors", ".weights.h5"])
def test_a_disk_that_is_full(suffix, tmp_path, monkeypatch):
    path = F.write(tmp_path / f"m{suffix}", {"a/vars/0": A})
    before = path.read_bytes()

    def sync(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("jlayers.checkpoint.atomic.sync", sync)
    with pytest.raises(OSError, match="No space left"):
        F.write(path, {"a/vars/0": 2 * A})
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before
