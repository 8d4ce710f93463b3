"""When it goes wrong: a full disk, a folder that cannot be, damage. What was there is whole."""

import errno
import os
import re
import resource
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_trees import filled_folder, tree, value
from error_text import read

import jlayers as jl
from jlayers import training
from jlayers.checkpoint import manifest
from jlayers.checkpoint.formats import safetensors


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


@pytest.mark.parametrize("where", ["write", "fsync", "mkdir", "rename"])
def test_a_full_disk_leaves_what_was_there(filled, monkeypatch, where):
    before = {path: path.read_bytes() for path in filled.folder.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(os, where, no_space)
        filled.save(400, tree(400))
        with pytest.raises(jl.CheckpointError) as caught:
            filled.wait()
    text = str(caught.value)
    assert "the checkpoint of step 400 could not be written: No space left on device" in text
    assert "expected: room for 88 bytes in" in text
    assert "what was written before is whole" in text
    after = {path: path.read_bytes() for path in filled.folder.rglob("*") if path.is_file()}
    assert after == before
    assert half_written(filled.folder) == []
    filled.save(400, tree(400))
    filled.wait()
    assert filled.steps() == [200, 300, 400]


def test_what_the_disk_says_early_is_not_lost(filled, monkeypatch):
    """A disk tells of an error once, and then perhaps to the thread that flushes."""
    fsync = os.fsync

    def once(descriptor):
        if threading.current_thread().name == "checkpoint-flush":
            no_space()
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors, "_FLUSH", 1)
        patch.setattr(os, "fsync", once)
        filled.save(400, tree(400))
        with pytest.raises(jl.CheckpointError, match="No space left on device"):
            filled.wait()
    assert filled.steps() == [100, 200, 300]


def test_a_limit_on_files_stands_for_a_disk_that_fills_up(filled):
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
        patch.setattr(safetensors.os, "write", no_space)
        filled.save(400, tree(400))
        filled._thread.join()
    read((lambda: filled.save(500, tree(500)), "*step 400 could not be written*", "make room"))
    filled.save(500, tree(500))
    filled.wait()
    assert filled.steps() == [200, 300, 500]


def test_history_that_is_no_json_is_told_by_the_writer(filled):
    filled.save(400, tree(), history=[{"x": {1, 2}}])
    read((filled.wait, "*history[0]['x'] is no JSON", "{1, 2}"))
    assert filled.steps() == [100, 200, 300]
    assert half_written(filled.folder) == []


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        read(
            (
                lambda path=path: training.CheckpointManager(path),
                "*no folder for checkpoints: *",
                "file",
            )
        )
        wrong = lambda path=path: training.save_checkpoint(path, tree(), step=1)  # noqa: E731
        read((wrong, "save_checkpoint: the checkpoint of step 1 could not be written: *"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_that_has_a_checkpoints_name_stays(folder):
    folder.mkdir(parents=True)
    (folder / "step_00000001").write_text("mine")
    checkpoints = training.CheckpointManager(folder)
    assert checkpoints.steps() == []
    checkpoints.save(1, tree())
    read(
        (
            checkpoints.wait,
            "*the checkpoint of step 1 could not be written: Not a directory",
            "room",
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
    flip_header: "the header of arrays.safetensors does not fit the manifest",
    flip_manifest: "the checksum of manifest.json is wrong",
    garbage: "manifest.json is no manifest (*)",
    pipe: "manifest.json is no file",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_told_and_the_one_before_is_good(filled, damage):
    damage(filled.path(300))
    first = f"*the checkpoint *step_00000300 is damaged: {DAMAGE[damage]}"
    read((lambda: filled.restore(tree()), first, "step=200, the last good one, or fallback=True"))
    with pytest.raises(training.DamagedCheckpointError):
        filled.restore(tree(), 300)
    assert value(filled.restore(tree(), step=200)) == 200
    damage(filled.path(200))
    with pytest.warns(UserWarning, match=r"(?s)step_00000300 is damaged.*goes on from step 100"):
        found = filled.restore(tree(), fallback=True)
    assert (value(found), found.step) == (100, 100)
    filled.save(150, tree(150))  # no warning: the later ones are damaged
    filled.wait()
    assert 150 in filled.steps()


def test_nothing_good_is_left(filled):
    for step in filled.steps():
        flip(filled.path(step))
    wrong = lambda: filled.restore(tree(), fallback=True)  # noqa: E731
    read((wrong, "*step_00000300 is damaged: *", "no checkpoint before it is good either"))


def test_another_model_is_no_damage(filled):
    wrong = lambda: filled.restore({"w": jnp.zeros(3)}, fallback=True)  # noqa: E731
    read((wrong, "*the checkpoint does not fit: step_00000300: 0 of 2 paths match; *", "'w'"))


def test_there_is_none(filled, tmp_path):
    nothing = training.CheckpointManager(tmp_path / "new")
    read((lambda: nothing.restore(tree()), "*no checkpoint in *new"))
    wrong = lambda: filled.restore(tree(), step=250)  # noqa: E731
    read((wrong, "*no checkpoint of step 250 in *", "one of the steps 100, 200, 300"))


def test_a_newer_format_is_no_damage(filled, monkeypatch):
    monkeypatch.setattr(manifest, "VERSION", 2)
    path = training.save_checkpoint(filled.folder, tree(), step=400)
    monkeypatch.undo()
    wrong = lambda: training.read_arrays(path)  # noqa: E731
    read((wrong, "read_arrays: *has a format that this jlayers does not know", "a newer jlayers"))
