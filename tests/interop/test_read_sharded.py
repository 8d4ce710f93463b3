"""Files of other libraries onto meshes, and Orbax's folders from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from oracles import processes
from programs import orbax_shards

import jlayers as jl
from jlayers import interop

orbax = pytest.importorskip("orbax.checkpoint")
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:orbax.*", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
X = np.arange(32, dtype=np.float32).reshape(4, 8)
ARRAYS = {"a/w": X, "a/b": X[0].astype(jnp.bfloat16), "c": np.arange(4, dtype=np.int32)}


def over(*shape, spec):
    mesh = jax.make_mesh(shape, ("data", "model"))
    return NamedSharding(mesh, PartitionSpec(*spec))


def sharded():
    split = {"a/w": ("data", "model"), "a/b": ("model",), "c": ()}
    return {
        name: jax.device_put(array, over(2, 2, spec=split[name])) for name, array in ARRAYS.items()
    }


def template(**changed):
    """Another mesh, and another cut."""
    specs = {"a/w": (None, "data"), "a/b": (), "c": ("data",)}
    return {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=over(4, 1, spec=specs[name]))
        for name, array in ARRAYS.items()
    } | changed


def written(folder, format):
    if format == "npz":
        arrays = {name: array for name, array in sharded().items() if array.dtype != jnp.bfloat16}
        return interop.write(folder / "x.npz", arrays), set(arrays)
    name = "x.safetensors" if format == "safetensors" else "x"
    return interop.write(folder / name, sharded(), format=format), set(ARRAYS)


@pytest.mark.parametrize("format", ["orbax", "safetensors", "npz"])
def test_what_is_sharded_comes_back_onto_another_mesh(tmp_path, format):
    path, names = written(tmp_path, format)
    like = {name: spec for name, spec in template().items() if name in names}
    found = interop.read_sharded(path, like)
    assert list(found) == list(like)
    for name, array in found.items():
        assert array.sharding == like[name].sharding
        assert array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(np.asarray(array), ARRAYS[name])
    # What is not asked for is left out.
    assert interop.read_sharded(path, {"c": like["c"]}).keys() == {"c"}


def test_orbax_itself_reads_what_is_sharded(tmp_path):
    path, _ = written(tmp_path, "orbax")
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    checkpointer = orbax.PyTreeCheckpointer()
    tree = checkpointer.restore(path)
    np.testing.assert_array_equal(np.asarray(tree["a"]["w"]), X)
    metadata = checkpointer.metadata(path)
    metadata = getattr(metadata, "item_metadata", metadata)
    leaf = getattr(metadata, "tree", metadata)["a"]["w"]
    # By shards, and not as the whole that NumPy would make of it.
    assert leaf.storage.write_shape == (2, 4)
    assert leaf.sharding.partition_spec == ("data", "model")


def test_what_orbax_wrote_comes_onto_a_mesh(tmp_path):
    tree = {"a": {"w": sharded()["a/w"]}, "c": [ARRAYS["c"], 3], "note": "text"}
    orbax.PyTreeCheckpointer().save(tmp_path / "x", tree)
    like = {"a/w": template()["a/w"], "c/0": template()["c"]}
    found = interop.read_sharded(tmp_path / "x", like)
    for name, expected in (("a/w", X), ("c/0", np.arange(4))):
        assert found[name].sharding == like[name].sharding
        np.testing.assert_array_equal(np.asarray(found[name]), expected)
    (tmp_path / "step").mkdir()
    (tmp_path / "x").rename(tmp_path / "step" / "default")
    again = interop.read_sharded(tmp_path / "step", like, format="orbax")
    np.testing.assert_array_equal(np.asarray(again["a/w"]), X)


ROWS = over(4, 1, spec=("data",))
WRONG = {
    "shape": ({"c": jax.ShapeDtypeStruct((8,), np.int32, sharding=ROWS)}, "'c' as", "int32[8]"),
    "dtype": ({"c": jax.ShapeDtypeStruct((4,), np.float32, sharding=ROWS)}, "'c' as", "int32[4]"),
    "name": ({"d": jax.ShapeDtypeStruct((4,), np.int32, sharding=ROWS)}, "'d' as", "nothing of"),
    "64 bits": (
        {"c": jax.ShapeDtypeStruct((4,), np.int64, sharding=ROWS)},
        "int64, which is not enabled in JAX",
        "jax_enable_x64",
    ),
    "no sharding": ({"c": jax.ShapeDtypeStruct((4,), np.int32)}, "must have a sharding", "Shape"),
    "NumPy": ({"c": np.arange(4)}, "template of 'c' must have a sharding", "ndarray"),
}


@pytest.mark.parametrize("format", ["orbax", "safetensors"])
@pytest.mark.parametrize("case", WRONG)
def test_templates_that_do_not_fit(tmp_path, format, case):
    like, *texts = WRONG[case]
    path, _ = written(tmp_path, format)
    with pytest.raises(jl.InteropError) as caught:
        interop.read_sharded(path, like)
    for text in texts:
        assert text in str(caught.value)


@pytest.mark.full
def test_two_processes_write_one_folder(tmp_path):
    ended = processes.run(
        orbax_shards.__file__, [tmp_path], count=2, devices=2, folder=tmp_path / "output"
    )
    assert [one.status for one in ended] == [0, 0], "\n".join(one.text for one in ended)
    for one in ended:
        assert "read what was written" in one.text
        assert "'a/w' is sharded over several processes" in one.text
    assert sorted(file.name for file in tmp_path.iterdir()) == ["output", "x"]
    np.testing.assert_array_equal(interop.read(tmp_path / "x")["a/w"], orbax_shards.X)
    rows = jax.ShapeDtypeStruct((4, 8), np.float32, sharding=over(4, 1, spec=("data",)))
    found = interop.read_sharded(tmp_path / "x", {"a/w": rows})
    np.testing.assert_array_equal(np.asarray(found["a/w"]), orbax_shards.X)
