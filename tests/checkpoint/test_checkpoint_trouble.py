"""Folders that are shared, renamed, copied, unreadable or full of the user's own things."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
from checkpoint_trees import filled_folder, tree, value
from error_text import read

import jlayers as jl
from jlayers import checkpoint, training
from jlayers.checkpoint import atomic, manager, manifest
from jlayers.checkpoint.retention import Retention

METRICS = {"loss": 0.5}


@pytest.fixture
def filled(tmp_path):
    return filled_folder(tmp_path / "run" / "checkpoints")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fails(number, only=lambda path: True):
    """A function of the system that fails for some paths."""

    def failing(path, *args, **kwargs):
        if only(str(path)):
            raise OSError(number, os.strerror(number))
        return real(path, *args, **kwargs)

    def instead_of(patch, name):
        nonlocal real
        real = getattr(os, name)
        patch.setattr(os, name, failing)

    real = None
    return instead_of


# Two processes that write into one folder, in the orders that their calls may have.


@pytest.mark.parametrize("there", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("turn", range(1, 4))
@pytest.mark.parametrize("other", ["writes", "removes", "cleans"])
def test_another_process_takes_its_turn_between_two_calls(
    tmp_path, monkeypatch, there, turn, other
):
    def theirs():
        if other == "writes":
            training.save_checkpoint(tmp_path, tree(2), step=1)
        elif other == "cleans":
            atomic.clean(tmp_path)
        else:
            with contextlib.suppress(FileNotFoundError):
                atomic.atomic_remove(tmp_path / "step_00000001")

    if there:
        training.save_checkpoint(tmp_path, tree(0), step=1)
    rename, calls = os.rename, []

    def interrupted(source, target, **options):
        calls.append(target)
        if len(calls) == turn:
            with monkeypatch.context() as patch:
                patch.setattr(os, "rename", rename)
                theirs()
        return rename(source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupted)
        path = training.save_checkpoint(tmp_path, tree(1), step=1)
    assert value(checkpoint.read_checkpoint(path, tree())) == 1
    atomic.clean(tmp_path)
    assert names(tmp_path) == ["step_00000001"]


def test_what_is_being_made_is_not_taken_for_abandoned(tmp_path, monkeypatch):
    lock, cleaned = atomic._lock, []

    def late(descriptor, *, wait=True):
        if wait and not cleaned:
            cleaned.append(atomic.clean(tmp_path))
        return lock(descriptor, wait=wait)

    monkeypatch.setattr(atomic, "_lock", late)
    path = training.save_checkpoint(tmp_path, tree(1), step=1)
    assert value(checkpoint.read_checkpoint(path, tree())) == 1
    assert names(tmp_path) == ["step_00000001"]


def test_what_is_abandoned_is_locked_until_it_is_gone(tmp_path, monkeypatch):
    (tmp_path / ".step_00000001.writing-00000000").mkdir()
    delete, could_lock = atomic._delete, []

    def looked_at(path):
        descriptor = os.open(path, os.O_RDONLY)
        could_lock.append(atomic._lock(descriptor, wait=False))
        os.close(descriptor)
        delete(path)

    monkeypatch.setattr(atomic, "_delete", looked_at)
    atomic.clean(tmp_path)
    assert could_lock == [False]
    assert names(tmp_path) == []


def test_metrics_are_those_of_what_another_process_wrote(tmp_path):
    ours = training.CheckpointManager(tmp_path, keep=1, best=1)
    ours.save(1, tree(), metrics={"loss": 0.1})
    ours.wait()
    training.save_checkpoint(tmp_path, tree(), step=1, metrics={"loss": 9.0})
    for step, loss in ((2, 1.0), (3, 2.0)):
        ours.save(step, tree(), metrics={"loss": loss})
    ours.wait()
    assert ours.steps() == [2, 3]


def test_what_another_process_removes_meanwhile_is_not_corrupt(filled, monkeypatch):
    real, calls = manager.read_checkpoint, []

    def late(path, like, **options):
        if not calls:
            calls.append(training.save_checkpoint(filled.folder, tree(400), step=400))
            atomic.atomic_remove(filled.path(300))
        return real(path, like, **options)

    monkeypatch.setattr(manager, "read_checkpoint", late)
    assert value(filled.restore(tree())) == 400


# Old checkpoints that cannot be removed.


@pytest.mark.parametrize("number", [errno.EIO, errno.EPERM, errno.EBUSY], ids=errno.errorcode.get)
def test_an_old_checkpoint_that_cannot_be_removed_ends_nothing(filled, monkeypatch, number):
    rename = os.rename

    def failing(source, target, **options):
        if ".removed-" in str(target):
            raise OSError(number, os.strerror(number))
        return rename(source, target, **options)

    checkpoints = training.CheckpointManager(filled.folder, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        checkpoints.save(400, tree(400))
        with pytest.warns(UserWarning, match="step_00000.00 could not be removed") as caught:
            checkpoints.wait()
        assert len(caught) == 3
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            checkpoints.save(500, tree(500))  # of 400 alone it is news
            with pytest.raises(UserWarning, match="step_00000400 could not be removed"):
                checkpoints.wait()
    checkpoints.save(600, tree(600))
    checkpoints.wait()
    assert checkpoints.steps() == [600]


def test_a_checkpoint_whose_metrics_cannot_be_read_may_be_the_best(filled, monkeypatch):
    checkpoints = training.CheckpointManager(filled.folder, keep=1, best=1)
    with monkeypatch.context() as patch:
        fails(errno.EMFILE, lambda path: "manifest.json" in path and "00100" in path)(patch, "open")
        checkpoints.save(400, tree(400), metrics={"loss": 0.002})
        checkpoints.wait()
    assert checkpoints.steps() == [100, 400]
    checkpoints.save(500, tree(500), metrics={"loss": 9.0})
    checkpoints.wait()
    assert checkpoints.steps() == [400, 500]


# Unreadable folders, and processes that are out of something.


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO], ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_listed_is_not_empty(filled, monkeypatch, number):
    with monkeypatch.context() as patch:
        fails(number)(patch, "listdir")
        text = f"the folder of checkpoints cannot be read: {os.strerror(number)}"
        read((lambda: filled.steps(), text, "ulimit" if number == errno.EMFILE else "a folder"))
        read((lambda: filled.restore(tree()), f"restore: {text}"))
    assert filled.steps() == [100, 200, 300]


@pytest.mark.parametrize("at", [0, 1, 2], ids=["manifest", "size", "arrays"])
def test_without_descriptors_a_good_checkpoint_is_not_corrupt(filled, monkeypatch, at):
    """Else training would go on from an older one, or from its start."""
    seen = []
    with monkeypatch.context() as patch:

        def of_checkpoint(path):
            if "step_00000300/" in path:
                seen.append(path)
            return len(seen) > at

        fails(errno.EMFILE, of_checkpoint)(patch, "open")
        with pytest.raises(jl.CheckpointError, match="Too many open files") as caught:
            filled.restore(tree(), fallback=True)
    assert not isinstance(caught.value, checkpoint.CorruptCheckpointError)
    assert "ulimit" in str(caught.value)
    assert value(filled.restore(tree())) == 300


def test_without_descriptors_nothing_half_written_is_left(filled, monkeypatch):
    with monkeypatch.context() as patch:
        fails(errno.EMFILE, lambda path: ".writing-" in path)(patch, "open")
        filled.save(400, tree(400))
        with pytest.raises(jl.CheckpointError, match="Too many open files"):
            filled.wait()
    assert names(filled.folder) == [f"step_00000{n}00" for n in (1, 2, 3)]


def test_without_threads_the_caller_writes(filled, monkeypatch):
    def refuses(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuses)
        filled.save(400, tree(400))
    assert filled.steps() == [200, 300, 400]


# Paths, and folders that are renamed or copied.


def test_a_later_chdir_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    checkpoints = training.CheckpointManager("run")
    checkpoints.save(1, tree(1))
    monkeypatch.chdir("other")
    checkpoints.save(2, tree(2))
    checkpoints.wait()
    assert (tmp_path / "run" / "step_00000002").is_dir()
    assert checkpoints.steps() == [1, 2]
    assert value(checkpoints.restore(tree())) == 2
    assert list(pathlib.Path().iterdir()) == []


@pytest.mark.parametrize("swapped", [False, True])
def test_a_folder_that_is_renamed_is_told_of(filled, swapped):
    moved = filled.folder.rename(filled.folder.with_name("moved"))
    if swapped:
        shutil.copytree(moved, filled.folder)
    filled.save(400, tree(400))
    with pytest.warns(UserWarning, match="another one" if swapped else "a new folder") as caught:
        filled.wait()
    assert "step 400" in str(caught[0].message)
    assert filled.steps() == ([200, 300, 400] if swapped else [400])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filled.save(500, tree(500))
        filled.wait()


def test_a_checkpoint_under_another_ones_name_is_not_that_one(filled):
    shutil.copytree(filled.path(100), filled.path(400))
    with pytest.raises(checkpoint.CorruptCheckpointError, match="is that of step 100: its dir"):
        filled.restore(tree())
    with pytest.warns(UserWarning, match="continues from step 300"):
        assert filled.restore(tree(), fallback=True).step == 300
    assert checkpoint.read_checkpoint(filled.path(400), tree()).step == 100
    best = training.CheckpointManager(filled.folder, keep=1, best=1)
    best.save(500, tree(), metrics={"loss": 0.009})
    best.wait()
    assert best.steps() == [300, 500]


def test_only_names_of_ours_are_checkpoints(filled):
    for name in ("step_000000400", "step_٠٠٠٠٠٤٠٠", "step_00000400.bak"):
        shutil.copytree(filled.path(100), filled.folder / name)
    assert filled.steps() == [100, 200, 300]


def test_a_format_that_is_not_registered_here_is_told_of(filled):
    (filled.path(300) / "arrays.safetensors").rename(filled.path(300) / "arrays.theirs")
    text = (filled.path(300) / "manifest.json").read_text()
    content = json.loads(text)
    content.pop("checksum")
    content["file"] = {"format": "theirs", "size": None}
    content["checksum"] = manifest._checksum(content)
    (filled.path(300) / "manifest.json").write_text(json.dumps(content))
    assert filled.steps() == [100, 200, 300]
    with pytest.raises(jl.CheckpointError, match="unknown checkpoint format 'theirs'"):
        filled.restore(tree())


# What users have in the folder, and in what they save.


def test_files_of_the_user_stay(filled):
    mine = [".backup.removed-00000000", ".notes.writing-deadbeef", "step_00000400/thesis.txt"]
    for name in mine:
        path = filled.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine") if "." in name[1:] and "/" in name else path.mkdir()
    checkpoints = training.CheckpointManager(filled.folder)
    checkpoints.save(400, tree())
    read((checkpoints.wait, "*step_00000400 is in the way: a directory that is not *", "rename"))
    checkpoints.save(500, tree())
    checkpoints.wait()
    assert all((filled.folder / name).exists() for name in mine)


def test_a_link_to_a_checkpoint_is_removed_and_not_what_it_is_to(filled, tmp_path):
    other = filled.path(100).rename(tmp_path / "other")
    filled.path(100).symlink_to(other)
    filled.save(400, tree(400))
    filled.wait()
    assert names(filled.folder) == [f"step_00000{n}00" for n in (2, 3, 4)]
    assert (other / "manifest.json").exists()
    filled.path(400).rename(tmp_path / "four")
    filled.path(400).symlink_to(tmp_path / "four")
    filled.save(400, tree(401))
    filled.wait()
    assert value(filled.restore(tree())) == 401


KEYS = [
    {"$float": "nan"},
    {"$float": 1, "x": float("inf")},
    {"$dict": {"$float": "nan"}},
    {"$dict": {"$dict": [{"$float": None}]}},
    {"sums": 3, "counted": "x", "looked": None},
]


@pytest.mark.parametrize("mine", KEYS, ids=str)
def test_any_key_of_the_users_comes_back(tmp_path, mine):
    path = training.save_checkpoint(
        tmp_path, {}, step=1, extra={"mine": mine} | mine, position=mine
    )
    content = training.read_manifest(path)
    assert (content.extra, content.position) == ({"mine": mine} | mine, mine)


def test_the_name_that_safetensors_reserves_is_a_path_as_others(tmp_path):
    saved = {"__metadata__": np.arange(3), "x": {"__metadata__": np.ones(2)}}
    path = training.save_checkpoint(tmp_path, saved, step=1)
    found = checkpoint.read_checkpoint(path, saved).tree
    np.testing.assert_array_equal(found["__metadata__"], np.arange(3))
    assert checkpoint.read_arrays(path).keys() == {"__metadata__", "x/__metadata__"}


# Texts that are not manifests, and values that no manifest can hold.

SIZE = 2 << 20
DENSE = [b"[],", b"{},", b"[0],", b'{"a":0},', b'["a"],', b"[[", b'"ab",']


@pytest.mark.parametrize("unit", DENSE, ids=bytes.decode)
def test_a_manifest_is_looked_at_before_it_is_parsed(tmp_path, unit):
    path = training.save_checkpoint(tmp_path, {}, step=1)
    text = b'{"position": [' + unit * (SIZE // len(unit)) + b"0]}"
    (path / "manifest.json").write_bytes(text)
    tracemalloc.start()
    try:
        with pytest.raises(checkpoint.CorruptCheckpointError):
            training.read_manifest(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * SIZE
    finally:
        tracemalloc.stop()


def test_long_manifests_of_ours_are_not_dense(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "_SHORT", 0)
    history = [[i, 0, {"l": 0.5, "eval/loss": float("nan")}, 1.0, 1.0] for i in range(50)]
    params = {f"p{i}": np.zeros(()) for i in range(50)}
    path = training.save_checkpoint(tmp_path, params, step=1, history=history, metrics=METRICS)
    assert len(training.read_manifest(path).history) == 50


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


TOO_MUCH = [
    ({"extra": {"x": nested(2000)}}, "extra is nested too deeply for a checkpoint", "100 lists"),
    ({"extra": {"x": [[]] * 10_000}}, "position, history and extra are too large *", "in the tree"),
    ({"history": [nested(101)]}, "history is nested too deeply for a checkpoint"),
]


@pytest.mark.parametrize("case", TOO_MUCH, ids=lambda case: case[1])
def test_what_could_not_be_read_again_is_not_written(tmp_path, monkeypatch, case):
    monkeypatch.setattr(manifest, "_SHORT", 1 << 12)
    options, first, *later = case
    write = lambda: training.save_checkpoint(tmp_path, {}, step=1, **options)  # noqa: E731
    read((write, f"save_checkpoint: {first}", *later))
    assert names(tmp_path) == []


def test_what_is_nested_as_deeply_as_allowed_is_read_again(tmp_path):
    path = training.save_checkpoint(tmp_path, {}, step=1, position=nested(90))
    assert training.read_manifest(path).position == nested(90)


def test_the_thread_that_prunes_ends_with_a_warning_at_worst(filled, monkeypatch):
    def fail(self, steps):
        raise TypeError("a fault of ours")

    monkeypatch.setattr(Retention, "best", fail)
    filled.save(400, tree(400))
    with pytest.warns(UserWarning, match="old checkpoints were not removed: a fault of ours"):
        filled.wait()


def test_a_directory_that_another_process_writes_again_is_not_in_the_way(tmp_path, monkeypatch):
    target = checkpoint.save_checkpoint(tmp_path, {"a": np.ones(3)}, step=1)
    manifest_file = target / "manifest.json"
    content = manifest_file.read_bytes()
    manifest_file.unlink()
    looks = []

    def look(path):
        looks.append(path)
        # The other one has put its directory there by the second time.
        if len(looks) == 2:
            manifest_file.write_bytes(content)
        return False

    monkeypatch.setattr("jlayers.checkpoint.writing.has_arrays", look)
    checkpoint.save_checkpoint(tmp_path, {"a": np.zeros(3)}, step=1)
    assert len(looks) == 2
    saved = checkpoint.read_checkpoint(target, {"a": np.ones(3)}).tree
    np.testing.assert_array_equal(saved["a"], np.zeros(3))
