"""Checkpoints of several processes that are not what was written, and what they go back to."""

import collections
import json
import random
import threading

import numpy as np
import pytest
from error_text import read
from pretended import each, manager, mesh
from soak import checkpoint_fuzz
from soak.checkpoint_fuzz import checksum_of
from test_checkpoints import assert_exact
from test_shards import errors, saved, tree

import jlayers as jl
from jlayers import checkpoint, training
from jlayers.checkpoint import manager as module
from jlayers.checkpoint import manifest

FILE = "arrays-00001-of-00002.safetensors"


@pytest.fixture
def state():
    return tree(mesh(2, 2))


@pytest.fixture
def path(tmp_path, state):
    return saved(tmp_path, 2, state)


def changed(path, change):
    """Changes a manifest, and updates its checksum."""
    content = json.loads((path / "manifest.json").read_text())
    change(content)
    content.pop("checksum")
    content["checksum"] = checksum_of(content)
    (path / "manifest.json").write_text(json.dumps(content))


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


def lengthen(file):
    file.write_bytes(file.read_bytes() + b" ")


def flip(file):
    data = bytearray(file.read_bytes())
    data[-3] ^= 4
    file.write_bytes(data)


def delete(file):
    file.unlink()


def rename(file):
    """An array of the file gets the place of another."""
    file.write_bytes(file.read_bytes().replace(b"rows[2:4,0:8]", b"rows[1:4,0:8]"))


def swap(file):
    other = file.with_name("arrays-00000-of-00002.safetensors")
    data = other.read_bytes()
    other.write_bytes(file.read_bytes())
    file.write_bytes(data)


DAMAGE = {
    truncate: f"{FILE} is truncated: * bytes, * were written",
    lengthen: f"{FILE} is too long: * bytes, * were written",
    flip: f"the checksum of * in {FILE} is wrong",
    delete: "cannot be read: No such file or directory",
    rename: f"{FILE} does not match the manifest: 'rows*:4,0:8]' is missing in *",
    swap: "arrays-0000*-of-00002.safetensors * bytes, * were written",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_to_the_file_of_one_process(path, state, damage):
    damage(path / FILE)
    text = DAMAGE[damage] if damage is delete else f"is corrupt: {DAMAGE[damage]}"
    for reads in (
        lambda: checkpoint.read_arrays(path),
        lambda: checkpoint.read_checkpoint(path, state),
    ):
        with pytest.raises(checkpoint.CorruptCheckpointError):
            reads()
        read((reads, f"*the checkpoint *step_00000400 {text}"))


def test_damage_elsewhere_does_not_matter(path, state):
    """A process looks at the files that its devices need."""
    flip(path / FILE)
    delete(path / FILE)
    like = {name: state[name] for name in ("columns", "whole", "step")}
    found = checkpoint.read_checkpoint(path, like, allow=["*"])
    assert_exact(found.tree, like)


PLACES = {
    "a part that is not there": ["0 0:2,0:4 {0}", "0 0:2,4:8 {1}", "1 2:4,0:4 {2}"],
    "a part twice": [*("0 0:2,0:4 {0}", "0 0:2,4:8 {1}", "1 2:4,0:4 {2}"), "1 2:4,0:4 {2}"],
    "an overlap": ["0 0:2,0:4 {0}", "0 0:2,4:8 {1}", "1 1:4,0:4 {2}", "1 1:4,4:8 {3}"],
    "a gap": ["0 0:2,0:4 {0}", "0 0:2,4:8 {1}", "1 3:4,0:4 {2}", "1 3:4,4:8 {3}"],
    "beyond the array": ["0 0:2,0:4 {0}", "0 0:2,4:9 {1}", "1 2:4,0:4 {2}", "1 2:4,4:9 {3}"],
    "far beyond": ["0 0:2,0:4 {0}", "0 0:2,4:99999999999999999 {1}", "1 2:4,0:4 {2}"],
    "another file": ["0 0:2,0:4 {0}", "0 0:2,4:8 {1}", "2 2:4,0:4 {2}", "2 2:4,4:8 {3}"],
    "another rank": ["0 0:2 {0}", "1 2:4 {1}"],
    "no parts": [],
    "a text": "0 0:4,0:8 {0}",
    "numbers": [0, 1],
    "nothing": None,
}


@pytest.mark.parametrize("name", PLACES)
def test_parts_that_are_not_the_array(path, name):
    places = PLACES[name]

    def change(content):
        entry = content["arrays"]["both"]
        known = [text.split()[-1] for text in entry["parts"]]
        entry["parts"] = places
        if isinstance(places, list) and all(isinstance(place, str) for place in places):
            entry["parts"] = [place.format(*known) for place in places]

    changed(path, change)
    for reads in (checkpoint.read_manifest, checkpoint.read_arrays):
        with pytest.raises(checkpoint.CorruptCheckpointError, match="is not a manifest, though"):
            reads(path)


SIZES = [None, [], [884], [884, "x"], [884, None], [884, 1.5], [True, False], 884, {"a": 1}]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes_that_are_none(path, sizes):
    changed(path, lambda content: content["file"].update(sizes=sizes))
    with pytest.raises(checkpoint.CorruptCheckpointError, match="is not a manifest, though"):
        checkpoint.read_manifest(path)


@pytest.mark.parametrize("version", [1, 2])
def test_a_manifest_of_another_version(path, version):
    changed(path, lambda content: content.update(version=version))
    with pytest.raises(checkpoint.CorruptCheckpointError):
        checkpoint.read_arrays(path)
    one = training.save_checkpoint(path.parent, {"a": np.zeros(3)}, step=1)
    changed(one, lambda content: content.update(version=3))
    with pytest.raises(checkpoint.CorruptCheckpointError):
        checkpoint.read_arrays(one)


def test_many_parts_are_no_hostile_manifest(path, monkeypatch):
    """Its check is of how many values there are for the length of a text."""
    monkeypatch.setattr(manifest, "_SHORT", 0)
    told = checkpoint.read_manifest(path)
    size = 1 << 12
    leaves = {"a": told.leaves["both"]._replace(shape=(size, 2))}
    parts = {"a": tuple(checkpoint.Part(i % 2, ((i, i + 1), (0, 2)), i) for i in range(size))}
    text = manifest.text_of(told._replace(leaves=leaves, parts=parts))
    (path / "manifest.json").write_text(text)
    assert checkpoint.read_manifest(path).parts == parts


def test_processes_that_left_a_part_out(tmp_path, state):
    """Of an array over all processes, which one of them takes for its own."""
    x = np.zeros((4, 8), np.float32)

    def save(group):
        own = {"a": x if group.index == 1 else state["both"]}
        manager(group, tmp_path).save(400, own)

    def wait(group):
        checkpoints = manager(group, tmp_path)
        checkpoints.save(400, {"a": x if group.index == 1 else state["both"]})
        checkpoints.wait()

    text = "what the processes have written of 'a' is not the whole array: parts leave a gap"
    first, second = errors(2, wait)
    assert first.startswith(f"wait: {text}\n  expected: parts of float32[4, 8]\n  got:      [0 0:2")
    assert second.startswith(f"wait: process 0: {text}\n")
    assert list(tmp_path.iterdir()) == []


# What one process finds corrupt, all of them do.


@pytest.fixture
def two(tmp_path, state):
    """Checkpoints of the steps 100 to 300 by two processes, whose template is ``state``."""
    for step in (100, 200, 300):
        saved(tmp_path, 2, state, step)
    return tmp_path


@pytest.fixture
def half_blind(monkeypatch):
    """Reads that fail on one process: of the second, where there are two."""
    wrong, real = {}, module.read_checkpoint

    def reads(path, like, *, allow):
        error = wrong.get((threading.current_thread().name, path.name))
        if error is not None:
            raise error
        return real(path, like, allow=allow)

    monkeypatch.setattr(module, "read_checkpoint", reads)
    return wrong


def restoring(folder, state, wrong, failures, **options):
    """What each of two processes restores, where the second one's reads fail so."""

    def restore(group):
        if group.index == 1:
            name = threading.current_thread().name
            wrong.update({(name, f"step_{step:08d}"): e for step, e in failures.items()})
        return manager(group, folder).restore(state, **options)

    return each(2, restore)


CORRUPT = checkpoint.CorruptCheckpointError("the checkpoint is corrupt: a bit")


def test_all_fall_back_where_one_finds_damage(two, state, half_blind):
    with pytest.warns(UserWarning, match="continues from step 200") as caught:
        found = restoring(two, state, half_blind, {300: CORRUPT}, fallback=True)
    assert [one.step for one in found] == [200, 200]
    assert "process 1: the checkpoint is corrupt: a bit" in str(caught[0].message)
    assert len(caught) == 1  # of the first process alone
    for one in found:
        assert_exact(one.tree, state)


def test_all_raise_where_one_finds_damage(two, state, half_blind):
    first, second = restoring(two, state, half_blind, {300: CORRUPT})
    for error in (first, second):
        assert isinstance(error, checkpoint.CorruptCheckpointError)
        assert "step=200, the last good one" in str(error)


def test_what_one_process_lacks_is_not_damage(two, state, half_blind):
    """Else they would train from an older checkpoint, for want of a descriptor."""
    error = jl.CheckpointError("the checkpoint cannot be read: Too many open files")
    error.__cause__ = OSError(24, "Too many open files")
    for failures in ({300: error}, {300: CORRUPT, 200: error}):
        found = restoring(two, state, half_blind, failures, fallback=True)
        for one in found:
            assert isinstance(one, jl.CheckpointError)
            assert not isinstance(one, checkpoint.CorruptCheckpointError)
            assert "Too many open files" in str(one)


def test_want_of_memory_on_one_process_is_not_damage(two, state, half_blind):
    errors, caught = {300: CORRUPT, 200: MemoryError("of a device")}, []

    def restore(group):
        if group.index == 1:
            name = threading.current_thread().name
            half_blind.update({(name, f"step_{step:08d}"): e for step, e in errors.items()})
        with pytest.raises((MemoryError, jl.CheckpointError), match="of a device") as raised:
            manager(group, two).restore(state, fallback=True)
        caught.append(raised.type)

    each(2, restore)
    assert set(caught) == {MemoryError, jl.CheckpointError}


def test_any_error_of_one_process_is_told_to_all(two, state, half_blind):
    found = restoring(two, state, half_blind, {300: jl.CheckpointError("no such thing")})
    assert "process 1: no such thing" in str(found[0])
    assert "no such thing" in str(found[1])


def test_the_first_process_decides_which_steps_there_are(two, state):
    def look(group):
        checkpoints = manager(group, two, keep=2, best=1)
        if group.index == 1:
            checkpoints.folder = two / "nothing"
        return checkpoints.steps(), checkpoints.latest(), checkpoints.best_step()

    assert each(2, look) == [([100, 200, 300], 300, 300)] * 2


def test_old_checkpoints_are_removed_once(two, state):
    def save(group):
        with manager(group, two, keep=2) as checkpoints:
            for step in (400, 500):
                checkpoints.save(step, state, metrics={"loss": 1.0})

    assert each(2, save) == [None] * 2
    assert sorted(path.name for path in two.iterdir()) == ["step_00000400", "step_00000500"]


def test_what_a_killed_process_left_is_removed_at_the_next_start(two, state):
    left = two / ".step_00000400.writing-0123abcd"
    left.mkdir()
    (left / "arrays-00001-of-00002.safetensors").write_bytes(b"x")
    (left / "part-00001.json").write_text("{}")
    assert each(2, lambda group: manager(group, two).steps()) == [[100, 200, 300]] * 2
    assert not left.exists()


def test_mutated_checkpoints_are_refused_or_read_exactly(tmp_path, path):
    """Whatever the bytes of the manifest and of the files are."""
    expected = checkpoint_fuzz.arrays_of(checkpoint.read_arrays(path))
    whole = {file.name: file.read_bytes() for file in path.iterdir()}
    pick, outcomes = random.Random(0), collections.Counter()
    for turn in range(400):
        name = pick.choice(["manifest.json", "manifest.json", *sorted(whole)])
        if name == "manifest.json" and turn % 2:
            text = whole[name].decode()
            data = checkpoint_fuzz.json_changed(pick, text, sign=turn % 4 == 1).encode()
        else:
            data = checkpoint_fuzz.bytes_changed(pick, whole[name], whole["manifest.json"])
        (path / name).write_bytes(data)
        try:
            found = checkpoint_fuzz.arrays_of(checkpoint.read_arrays(path))
        except jl.CheckpointError as error:
            outcomes["refused"] += bool(str(error))
        else:
            # A change to the text that says nothing else, or one that was signed, of the history.
            outcomes["read"] += checkpoint_fuzz.same(found, expected)
        (path / name).write_bytes(whole[name])
    assert sum(outcomes.values()) == 400, outcomes
    assert outcomes["refused"] > 250
