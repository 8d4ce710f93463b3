"""Orbax's folders against orbax."""

import random
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from oracles import mutations

import jlayers as jl
from jlayers import interop

orbax = pytest.importorskip("orbax.checkpoint")
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:orbax.*", "ignore::DeprecationWarning"),
    # Orbax's event loops, where it meets damage.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def tree():
    layer = {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3, jnp.bfloat16)}
    return {"z": {"Dense_0": layer}, "a": [np.arange(3), np.float32(2)], "step": 3, "rate": 0.5}


EXPECTED = {
    "a/0": np.arange(3),
    "a/1": np.asarray(np.float32(2)),
    "z/Dense_0/kernel": np.arange(6, dtype="f").reshape(2, 3),
    "z/Dense_0/bias": np.ones(3, jnp.bfloat16),
    "step": np.asarray(3),
    "rate": np.asarray(0.5),
}


def assert_same(arrays, prefix=""):
    for name, value in EXPECTED.items():
        array = arrays[prefix + name]
        assert isinstance(array, np.ndarray)
        assert array.dtype == value.dtype, name
        np.testing.assert_array_equal(array, value)


def with_ocdbt(folder):
    orbax.PyTreeCheckpointer().save(folder / "x", {**tree(), "note": "text"})
    return folder / "x"


def with_zarr(folder):
    orbax.PyTreeCheckpointer(use_ocdbt=False).save(folder / "x", tree())
    return folder / "x"


def standard(folder):
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "x", tree())
    return folder / "x"


def managed(folder):
    with orbax.CheckpointManager(folder / "x") as manager:
        manager.save(5, args=orbax.args.StandardSave(tree()))
        manager.wait_until_finished()
    return folder / "x" / "5"


SAVED = [with_ocdbt, with_zarr, standard, pytest.param(managed, marks=pytest.mark.full)]


@pytest.mark.parametrize("save", SAVED)
def test_checkpoints(save, tmp_path):
    arrays = interop.read(save(tmp_path))
    assert set(arrays) == set(EXPECTED)
    assert_same(arrays)


@pytest.mark.full
def test_several_items(tmp_path):
    items = orbax.args.Composite(
        params=orbax.args.StandardSave(tree()), ema=orbax.args.StandardSave(tree())
    )
    with orbax.CheckpointManager(tmp_path / "x") as manager:
        manager.save(0, args=items)
        manager.wait_until_finished()
    arrays = interop.read(tmp_path / "x" / "0")
    assert len(arrays) == 2 * len(EXPECTED)
    assert_same(arrays, "params/")
    assert_same(arrays, "ema/")


def test_a_folder_of_steps(tmp_path):
    step = tmp_path / "manager" / "5" / "default"
    step.parent.mkdir(parents=True)
    with_zarr(tmp_path).rename(step)
    assert_same(interop.read(step.parent, format="orbax"))
    with pytest.raises(jl.InteropError, match="read one step's folder") as error:
        interop.read(step.parent.parent, format="orbax")
    assert "got:      5" in str(error.value)


def test_without_orbax(tmp_path, monkeypatch):
    path = with_zarr(tmp_path)
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(jl.InteropError, match="needs orbax-checkpoint, which is not") as error:
        interop.read(path)
    assert "pip install 'jlayers[interop]'" in str(error.value)


def test_an_array_beyond_reason(tmp_path):
    path = with_zarr(tmp_path)
    [entry] = path.glob("z.Dense_0.kernel/.zarray")
    text = entry.read_text()
    shape = text[text.index('"shape"') :]
    entry.write_text(text.replace(shape, shape.replace("2", "4398046511104", 1)))
    with pytest.raises(jl.InteropError, match=r"entry 'z/Dense_0/kernel' is damaged"):
        interop.read(path)


@pytest.mark.parametrize("save", [with_ocdbt, with_zarr])
def test_half_of_the_metadata(save, tmp_path):
    path = save(tmp_path)
    content = (path / "_METADATA").read_bytes()
    (path / "_METADATA").write_bytes(content[: len(content) // 2])
    with pytest.raises(jl.InteropError, match="damaged") as error:
        interop.read(path)
    assert str(path) in str(error.value)


# Orbax leaves tasks and coroutines of damaged arrays behind, and Python tells of them later.
@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("save", [with_ocdbt, with_zarr])
def test_mutations(save, tmp_path):
    path = save(tmp_path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size)
    rng = random.Random(0)
    refused = 0
    for _ in range(500):
        file = rng.choice(files)
        content = file.read_bytes()
        file.write_bytes(mutations.mutated(content, rng))
        text = str(path)
        try:
            arrays = interop.read(path)
            assert all(isinstance(array, np.ndarray) for array in arrays.values())
        except jl.InteropError as error:
            text, refused = str(error), refused + 1
        assert str(path) in text
        file.write_bytes(content)
    assert refused
