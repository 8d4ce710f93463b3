"""Full disks, folders that cannot be written, corrupt files: earlier checkpoints stay complete."""

import errno
import os
import re
import resource

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from checkpoint_trees import filled_folder, tree, value
from error_text import read
from safetensors import SafetensorError

import jlayers as jl
from jlayers import training
from jlayers.checkpoint import manifest


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "checkpoints"


@pytest.fixture
def filled(folder):
    return filled_folder(folder)


def half_written(folder):
    return [name for name in os.listdir(folder) if name.startswith(".")]


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def package_without_space(*_):
    raise SafetensorError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    )


FULL = {
    "write": (safetensors.numpy, "save_file", package_without_space),
    "fsync": (os, "fsync", no_space),
    "mkdir": (os, "mkdir", no_space),
    "rename": (os, "rename", no_space),
}


@pytest.mark.parametrize("where", FULL)
def test_a_full_disk_leaves_earlier_checkpoints(filled, monkeypatch, where):
    before = {path: path.read_bytes() for path in filled.folder.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(*FULL[where])
        filled.save(400, tree(400))
        with pytest.raises(jl.CheckpointError) as caught:
            filled.wait()
    text = str(caught.value)
    assert "the checkpoint of step 400 could not be written: No space left on device" in text
    assert "expected: 88 bytes of space in" in text
    assert "earlier checkpoints are still complete" in text
    after = {path: path.read_bytes() for path in filled.folder.rglob("*") if path.is_file()}
    assert after == before
    assert half_written(filled.folder) == []
    filled.save(400, tree(400))
    filled.wait()
    assert filled.steps() == [200, 300, 400]


@pytest.mark.parametrize("which", range(4))
def test_an_error_that_the_disk_reports_once_is_not_lost(filled, monkeypatch, which):
    """A disk reports an error at one call; later ones succeed."""
    fsync, calls = os.fsync, []

    def once(descriptor):
        calls.append(descriptor)
        if len(calls) == 1 + which:
            no_space()
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", once)
        filled.save(400, tree(400))
        with pytest.raises(jl.CheckpointError, match="No space left on device"):
            filled.wait()
    # Only the last call, of the folder, comes after the checkpoint has its name.
    assert filled.steps() == [100, 200, 300] + [400] * (which == 3)


def test_a_limit_on_the_size_of_files(filled):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, old[1]))
    try:
        big = {"x": np.zeros(100_000)}
        wrong = lambda: training.save_checkpoint(filled.folder, big, step=400)  # noqa: E731
        read((wrong, "save_checkpoint: the checkpoint of step 400 could not be written: *"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert filled.steps() == [100, 200, 300]
    assert half_written(filled.folder) == []


def test_the_error_comes_with_the_next_save(filled, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(*FULL["write"])
        filled.save(400, tree(400))
        filled._thread.join()
    read((lambda: filled.save(500, tree(500)), "*step 400 could not be written*", "free space"))
    filled.save(500, tree(500))
    filled.wait()
    assert filled.steps() == [200, 300, 500]


def test_history_that_json_does_not_have_is_refused_by_the_writer(filled):
    filled.save(400, tree(), history=[{"x": {1, 2}}])
    read((filled.wait, "*history[0]['x'] must be a JSON value", "{1, 2}"))
    assert filled.steps() == [100, 200, 300]
    assert half_written(filled.folder) == []


def test_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        read(
            (
                lambda path=path: training.CheckpointManager(path),
                "*cannot create the folder for checkpoints: *",
                "file",
            )
        )
        wrong = lambda path=path: training.save_checkpoint(path, tree(), step=1)  # noqa: E731
        read((wrong, "save_checkpoint: the checkpoint of step 1 could not be written: *"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_with_the_name_of_a_checkpoint_is_not_removed(folder):
    folder.mkdir(parents=True)
    (folder / "step_00000001").write_text("mine")
    checkpoints = training.CheckpointManager(folder)
    assert checkpoints.steps() == []
    checkpoints.save(1, tree())
    read(
        (
            checkpoints.wait,
            "*the checkpoint of step 1 could not be written: Not a directory",
            "space",
        )
    )
    assert (folder / "step_00000001").read_text() == "mine"


def truncate(path):
    file = path / "arrays.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip(path):
    file = path / "arrays.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 4
    file.write_bytes(data)


def flip_header(path):
    file = path / "arrays.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"F32"', b'"I32"'))


def flip_manifest(path):
    file = path / "manifest.json"
    file.write_text(re.sub('"step": [0-9]+', '"step": 301', file.read_text()))


def garbage(path):
    (path / "manifest.json").write_bytes(b"\x00\xff garbage")


def pipe(path):
    (path / "manifest.json").unlink()
    os.mkfifo(path / "manifest.json")


DAMAGE = {
    truncate: "arrays.safetensors is truncated: * bytes, * were written",
    flip: "the checksum of 'w' in arrays.safetensors is wrong",
    flip_header: "'w' is int32[4, 3] in the file, and float32[4, 3] in the manifest",
    flip_manifest: "the checksum of manifest.json is wrong",
    garbage: "manifest.json is not a manifest (*)",
    pipe: "manifest.json is not a regular file",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_corruption_is_reported_and_the_previous_checkpoint_restored(filled, damage):
    damage(filled.path(300))
    first = f"*the checkpoint *step_00000300 is corrupt: {DAMAGE[damage]}"
    read((lambda: filled.restore(tree()), first, "step=200, the last good one, or fallback=True"))
    with pytest.raises(training.CorruptCheckpointError):
        filled.restore(tree(), 300)
    assert value(filled.restore(tree(), step=200)) == 200
    damage(filled.path(200))
    with pytest.warns(UserWarning, match=r"(?s)step_00000300 is corrupt.*continues from step 100"):
        found = filled.restore(tree(), fallback=True)
    assert (value(found), found.step) == (100, 100)
    filled.save(150, tree(150))  # no warning: the later ones are corrupt
    filled.wait()
    assert 150 in filled.steps()


def test_no_checkpoint_is_good(filled):
    for step in filled.steps():
        flip(filled.path(step))
    wrong = lambda: filled.restore(tree(), fallback=True)  # noqa: E731
    read((wrong, "*step_00000300 is corrupt: *", "all earlier checkpoints are corrupt"))


def test_another_model_is_not_corruption(filled):
    wrong = lambda: filled.restore({"w": jnp.zeros(3)}, fallback=True)  # noqa: E731
    first = "*the checkpoint does not match the template: step_00000300: 0 of 2 paths match; *"
    read((wrong, first, "'w'"))


def test_there_is_no_checkpoint(filled, tmp_path):
    nothing = training.CheckpointManager(tmp_path / "new")
    read((lambda: nothing.restore(tree()), "*no checkpoint in *new"))
    wrong = lambda: filled.restore(tree(), step=250)  # noqa: E731
    read((wrong, "*no checkpoint of step 250 in *", "one of the steps 100, 200, 300"))


def test_a_newer_version_is_not_corruption(filled, monkeypatch):
    monkeypatch.setattr(manifest, "_ONE_FILE", 4)
    path = training.save_checkpoint(filled.folder, tree(), step=400)
    monkeypatch.undo()
    wrong = lambda: training.read_arrays(path)  # noqa: E731
    first = "read_arrays: *has a format that this version of jlayers does not know"
    read((wrong, first, "version 1 to 3", "version 4", "a newer jlayers"))
