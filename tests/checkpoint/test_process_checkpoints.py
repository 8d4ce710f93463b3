"""Checkpoints of two real processes with two devices each, read by this one and by them."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from oracles import processes
from programs import sharded_checkpoints as program

from jlayers import checkpoint

PROGRAM = pathlib.Path(program.__file__)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder, and what each process reported."""
    folder = tmp_path_factory.mktemp("processes")
    state = program.state_of(jax.make_mesh((1, 1), ("data", "model"), devices=jax.devices()[:1]))
    checkpoint.save_checkpoint(folder / "alone", state, step=50)
    ended = processes.run(PROGRAM, [folder], count=2, devices=2, folder=folder / "output")
    assert [one.status for one in ended] == [0, 0], "\n".join(one.text for one in ended)
    return folder, [json.loads(one.text.splitlines()[-1]) for one in ended]


def test_both_restore_what_they_saved(ran):
    for report in ran[1]:
        for name in ("same mesh", "other mesh", "of one process", "function"):
            assert report[name] is True, name
        assert (report["steps"], report["best"]) == ([200, 300, 400], 200)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 4), (4, 1)], ids=str)
def test_one_process_restores_it_onto_any_mesh(ran, shape):
    path = ran[0] / "run" / "step_00000400"
    assert len(list(path.iterdir())) == 3
    devices = jax.devices()[: shape[0] * shape[1]]
    like = program.state_of(jax.make_mesh(shape, ("data", "model"), devices=devices))
    assert program.equal(checkpoint.read_checkpoint(path, like).tree, like)


def test_each_file_has_the_shards_of_a_process(ran):
    told = checkpoint.read_manifest(ran[0] / "run" / "step_00000400")
    place = {name: [(p.file, p.place) for p in told.parts[name]] for name in told.parts}
    assert place["rows"] == [(0, ((0, 4), (0, 16))), (1, ((4, 8), (0, 16)))]
    assert [file for file, _ in place["both"]] == [0, 0, 1, 1]
    for name in ("columns", "whole", "own", "step"):
        assert {file for file, _ in place[name]} == {0}, name
    arrays = checkpoint.read_arrays(ran[0] / "run" / "step_00000400")
    for name, expected in program.values().items():
        np.testing.assert_array_equal(arrays[name], expected)


def test_an_error_on_one_is_raised_on_both(ran):
    first, second = ran[1]
    problem = "the checkpoint of step 500 could not be written: No space left on device"
    assert f"process 1: {problem}" in first["full"]
    assert problem in second["full"]
    for report in ran[1]:
        assert "saving step 500: the processes differ in 'a' of the tree" in report["different"]
        assert "process 1 does not see the folder that process 0 writes to" in report["folders"]
        assert report["left"] == [200, 300, 400]
    assert not list(ran[0].glob("run/.*"))


@pytest.mark.full
def test_more_processes_and_fewer_go_on(ran, tmp_path):
    """From two processes of two devices to four of two, to one of four, and back."""
    folder, step = tmp_path, 400
    shutil.copytree(ran[0] / "run", folder / "run")
    for count, devices in ((4, 2), (1, 4), (2, 2)):
        if count == 1:
            state = program.state_of(jax.make_mesh((4, 1), ("data", "model")))
            with checkpoint.CheckpointManager(folder / "run", keep=2) as checkpoints:
                found = checkpoints.restore(state)
                assert program.equal(found.tree, state)
                checkpoints.save(found.step + 1, found.tree)
        else:
            ended = processes.run(
                *(PROGRAM, [folder, "again"]),
                count=count,
                devices=devices,
                folder=folder / f"output-{count}",
            )
            assert [one.status for one in ended] == [0] * count, ended
            for one in ended:
                expected = {"from": step, "same": True}
                assert json.loads(one.text.splitlines()[-1]) == expected, one.text
        step += 1
        files = sorted(file.name for file in (folder / "run" / f"step_{step:08d}").iterdir())
        assert len(files) == count + 1
