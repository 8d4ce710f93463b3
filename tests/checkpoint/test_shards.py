"""Checkpoints of several processes, pretended by threads: what each writes, and who reads it."""

import json
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from pretended import each, manager, mesh
from test_checkpoints import assert_exact

import jlayers as jl
from jlayers import checkpoint
from jlayers.checkpoint import reading, saving
from jlayers.checkpoint.formats.safetensors import Safetensors

SPECS = {
    "both": ("data", "model"),
    "rows": ("data",),
    "columns": (None, "model"),
    "one axis": (("data", "model"),),
    "whole": (),
    "bfloat16": ("model",),
    "int4": ("data", "model"),
    "complex": ("data",),
    "keys": ("data",),
    "no elements": (None, "model"),
}


def values():
    x = np.arange(32, dtype=np.float32).reshape(4, 8)
    return {
        "both": x,
        "rows": x + 0.1,
        "columns": x - 0.1,
        "one axis": -x,
        "whole": x[0],
        "bfloat16": x.astype(jnp.bfloat16),
        "int4": (x % 8).astype(jnp.int4),
        "complex": (x + 1j).astype(np.complex64),
        "keys": jax.random.split(jax.random.key(0), 4),
        "no elements": np.zeros((0, 4), np.float32),
    }


def tree(over=None, specs=SPECS):
    """Arrays over a mesh, and what is not; of numbers that a mesh does not change."""
    arrays = values()
    if over is not None:
        arrays = {
            name: jax.device_put(array, NamedSharding(over, PartitionSpec(*specs[name])))
            for name, array in arrays.items()
        }
    else:
        arrays = {name: jax.device_put(array) for name, array in arrays.items()}
    return {**arrays, "step": 3, "numpy": np.arange(5.0), "own": jnp.float32(0.5)}


def saved(folder, count, state, step=400):
    """What each process makes of it."""

    def save(group):
        with manager(group, folder) as checkpoints:
            checkpoints.save(step, state, metrics={"loss": 1.0}, position=[1, 2])

    assert each(count, save) == [None] * count
    return folder / f"step_{step:08d}"


def test_each_process_writes_its_own_shards_alone(tmp_path):
    state = tree(mesh(2, 2))
    path = saved(tmp_path, 2, state)
    files = [f"arrays-0000{i}-of-00002.safetensors" for i in range(2)]
    assert sorted(os.listdir(path)) == [*files, "manifest.json"]
    assert sorted(os.listdir(tmp_path)) == ["step_00000400"]
    found = [checkpoint.read_safetensors(path / file) for file in files]
    # The first process has devices 0 and 1, which are the first row of the mesh.
    x = values()["both"]
    for i, rows in ((0, "0:2"), (1, "2:4")):
        np.testing.assert_array_equal(found[i][f"both[{rows},0:4]"], x[2 * i : 2 * i + 2, :4])
        np.testing.assert_array_equal(found[i][f"both[{rows},4:8]"], x[2 * i : 2 * i + 2, 4:])
    # The second one has copies of these, or they are of no device.
    for name in ("columns[0:4,0:4]", "whole[0:8]", "step[]", "numpy[0:5]", "own[]"):
        assert name in found[0]
        assert name not in found[1]
    told = checkpoint.read_manifest(path)
    assert told.sizes == tuple((path / file).stat().st_size for file in files)
    assert told.size == sum(told.sizes)
    assert [part.file for part in told.parts["both"]] == [0, 0, 1, 1]
    assert (told.step, told.position, told.metrics) == (400, [1, 2], {"loss": 1.0})
    assert json.loads((path / "manifest.json").read_text())["version"] == 3


def test_one_process_has_the_two_files_of_version_2(tmp_path):
    path = saved(tmp_path, 1, tree(mesh(2, 2)))
    assert sorted(os.listdir(path)) == ["arrays.safetensors", "manifest.json"]
    content = json.loads((path / "manifest.json").read_text())
    assert content["version"] == 2
    assert content["file"].keys() == {"format", "size"}
    assert content["arrays"]["both"].keys() == {"kind", "dtype", "shape", "crc32"}


MESHES = {"2 x 2": (2, 2), "4 x 1": (4, 1), "1 x 2": (1, 2), "1 x 1": (1, 1), "none": None}


def made(shape):
    return tree(None if shape is None else mesh(*shape))


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("shape", [(2, 2), (4, 1), (1, 4)], ids=str)
def test_restored_onto_any_mesh(tmp_path, count, shape):
    state = tree(mesh(*shape))
    path = saved(tmp_path, count, state)
    for other in MESHES.values():
        like = made(other)
        found = checkpoint.read_checkpoint(path, like).tree
        assert_exact(found, like)
        for name in SPECS:
            assert found[name].sharding == like[name].sharding
            assert found[name].committed == like[name].committed
    shapes = jax.eval_shape(lambda: {name: like[name] for name in SPECS})
    assert_exact(
        checkpoint.read_checkpoint(path, shapes, allow=["step", "numpy", "own"]).tree,
        {name: like[name] for name in SPECS},
    )
    arrays = checkpoint.read_arrays(path)
    assert arrays.keys() == state.keys()
    for name in SPECS:
        expected = state[name] if name != "keys" else jax.random.key_data(state[name])
        assert_exact(arrays[name], np.asarray(expected))


def test_old_checkpoints_are_restored_by_parts(tmp_path):
    """What one process has written, onto devices of which each process has two."""
    path = checkpoint.save_checkpoint(tmp_path, tree(), step=400)
    like = tree(mesh(2, 2))

    def restore(group):
        return manager(group, tmp_path).restore(like)

    for found in each(2, restore):
        assert found.path == path
        assert_exact(found.tree, like)


def test_a_process_reads_what_its_devices_need(tmp_path, monkeypatch):
    """Of an array at most one part at a time beside what is wanted, and no other file."""
    state = {"x": jax.device_put(np.arange(64.0), NamedSharding(mesh(4), PartitionSpec("data")))}
    path = saved(tmp_path, 4, state)
    content = checkpoint.read_manifest(path)
    opened = []
    read = Safetensors.read
    monkeypatch.setattr(
        Safetensors, "read", lambda self, file: opened.append(file.name[7:12]) or read(self, file)
    )
    for wanted, files in (
        ([((16, 32),)], ["00001"]),
        ([((24, 40),)], ["00001", "00002"]),
        ([((0, 8),), ((8, 16),)], ["00000"]),
        ([((0, 64),)], ["00000", "00001", "00002", "00003"]),
    ):
        opened.clear()
        [(name, found)] = reading.read_parts(path, content, {"x": wanted})
        assert (name, opened) == ("x", files)
        for index in wanted:
            np.testing.assert_array_equal(found[index], np.arange(*map(float, index[0])))
    assert dict(reading.read_parts(path, content, {"x": []})) == {"x": {}}


def test_more_files_than_may_be_open(tmp_path, monkeypatch):
    path = saved(tmp_path, 4, tree(mesh(4, 1)))
    monkeypatch.setattr(reading, "_OPEN", 1)
    assert_exact(checkpoint.read_checkpoint(path, tree()).tree, tree())


# Processes that differ, and what fails on one of them.


def errors(count, do):
    """The errors, of which each process must have one."""
    found = each(count, do)
    assert all(isinstance(error, jl.JlayersError) for error in found), found
    return [str(error) for error in found]


def names(folder):
    return sorted(os.listdir(folder))


def test_processes_with_different_trees(tmp_path):
    def save(group):
        x = {"a": np.zeros(3), "b": np.zeros(3 + (group.index == 1))}
        manager(group, tmp_path).save(400, x)

    assert errors(2, save) == ["save: saving step 400: the processes differ in 'b' of the tree"] * 2
    assert names(tmp_path) == []


def test_processes_at_different_steps(tmp_path):
    def save(group):
        begin = saving.begin
        take = lambda: saving.snapshot(  # noqa: E731
            *({"a": 1}, 400 + group.index, None, {}, (), {}, None, "safetensors", group), copy=True
        )
        begin("saving", tmp_path, group, take)

    assert errors(2, save) == ["saving: the processes differ in the step"] * 2
    assert names(tmp_path) == []


def test_a_leaf_that_one_process_cannot_save(tmp_path):
    def save(group):
        manager(group, tmp_path).save(400, {"a": 2**70 if group.index == 1 else 3})

    first, second = errors(2, save)
    problem = "'a' of the tree is an int that does not fit in 64 bits"
    assert first.startswith(f"save: process 1: {problem}\n")
    assert second.startswith(f"save: {problem}\n")
    assert names(tmp_path) == []


def test_an_array_of_another_process_alone(tmp_path):
    alone = jax.device_put(np.zeros(4), jax.devices()[3])
    first, second = errors(2, lambda group: manager(group, tmp_path).save(1, {"a": alone}))
    text = "'a' of the tree is on devices of process 1 alone"
    assert text in first
    assert text in second


def test_folders_that_are_not_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("jlayers.checkpoint.writing._UNSEEN", 0.1)
    first, second = errors(2, lambda group: manager(group, tmp_path / str(group.index)))
    text = "process 1 does not see the folder that process 0 writes to\n"
    assert text in first
    assert text in second
    assert f"got:      {tmp_path / '1'}" in second
    assert "a folder that all processes share" in second
    assert names(tmp_path / "0") == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("mine")
    for text in errors(2, lambda group: manager(group, tmp_path / "file")):
        assert "cannot create the folder for checkpoints: " in text


class FailingError(OSError):
    pass


def failing(index, when=lambda file: True):
    """A format that fails on one process."""

    class Failing(Safetensors):
        name = "failing"

        def write(self, arrays, path, metadata=None):
            if f"-{index:05d}-of" in path.name:
                raise FailingError(28, "No space left on device")
            super().write(arrays, path, metadata)

    return Failing()


@pytest.fixture(params=[0, 1, 2])
def failed(request):
    checkpoint.register(failing(request.param))
    yield request.param
    del checkpoint.formats.base._formats["failing"]


def test_a_disk_that_is_full_on_one_process(tmp_path, failed):
    state = tree(mesh(4, 1))
    saved(tmp_path, 4, state, 100)

    def save(group):
        checkpoints = manager(group, tmp_path, format="failing")
        checkpoints.save(400, state)
        checkpoints.wait()

    problem = "the checkpoint of step 400 could not be written: No space left on device"
    for i, text in enumerate(errors(4, save)):
        told = problem if i == failed else f"process {failed}: {problem}"
        assert text.startswith(f"wait: {told}\n"), text
        assert "earlier checkpoints are still complete" in text
    assert names(tmp_path) == ["step_00000100"]


def test_the_error_comes_with_the_next_save_on_all(tmp_path, failed):
    def save(group):
        checkpoints = manager(group, tmp_path, format="failing")
        checkpoints.save(400, {"a": 1})
        with pytest.raises(jl.CheckpointError, match="step 400 could not be written"):
            checkpoints.save(500, {"a": 1})
        checkpoints.format = "safetensors"
        checkpoints.save(500, {"a": 1})
        checkpoints.wait()
        return checkpoints.steps()

    assert each(3, save) == [[500]] * 3


def started(group, folder, format="safetensors"):
    """A write of step 400 that every process is about to do."""
    state = {"a": np.zeros((4, 3)), "b": np.ones(2)}

    def shot():
        return saving.snapshot(state, 400, None, {}, (), {}, None, format, group, copy=False)

    return saving.begin("saving", folder, group, shot)


def gone(folder):
    while list(folder.glob(".step_*.writing-*")):
        time.sleep(0.01)


def said(errors):
    return [error and str(error) for error in errors]


def test_a_process_that_does_not_write(tmp_path):
    """One that was killed after the others had started: they wait for a while, and say so."""

    def save(group):
        group.patience = 0.3
        writing = started(group, tmp_path)
        if group.index != 2:
            writing.run()

    first, *others = said(each(4, save))
    assert first == (
        "the checkpoint of step 400 was not completed: process 2 of 4 did not write its part\n"
        "  got:      no progress for 0.3 s\n"
        "  hint:     look at the output of that process"
    )
    # These see that it ended, or have waited as long as the first.
    late = "step 400 was not completed: process 0 did not write its manifest"
    assert all(text is None or late in text for text in others)
    assert names(tmp_path) == []


def test_a_first_process_that_does_not_write(tmp_path):
    def wait(group):
        group.patience = 0.3
        writing, error = started(group, tmp_path), None
        try:
            if group.index:
                writing.run()
        except jl.ProcessError as raised:
            error = str(raised)
        group.exchange("done", None)
        writing.abandon()
        return error

    assert each(2, wait) == [
        None,
        "the checkpoint of step 400 was not completed: process 0 did not write its manifest\n"
        "  got:      no progress for 0.3 s\n"
        "  hint:     look at the output of that process",
    ]
    assert names(tmp_path) == []


@pytest.mark.parametrize("failed", [1], indirect=True)
def test_what_the_first_process_says_of_another(tmp_path, failed):
    first, second, third = said(each(3, lambda group: started(group, tmp_path, "failing").run()))
    own = "the checkpoint of step 400 could not be written: No space left on device"
    assert first.startswith("process 1 could not write its part of the checkpoint of step 400\n")
    assert "No space left on device" in first
    assert second.startswith(own)
    # It may have written before; whether there is a checkpoint is told by the first one.
    given_up = "process 0 has given up the checkpoint of step 400"
    assert third in (str(tmp_path / "step_00000400"), given_up)
    assert names(tmp_path) == []


@pytest.mark.parametrize("failed", [0], indirect=True)
def test_a_process_that_comes_when_the_first_has_failed(tmp_path, failed):
    def save(group):
        writing = started(group, tmp_path, "failing")
        if group.index:
            gone(tmp_path)
        writing.run()

    assert said(each(2, save))[1] == "process 0 has given up the checkpoint of step 400"
