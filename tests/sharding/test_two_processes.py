"""Two processes of two devices beside one process of four: the same training, the same errors."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest
from oracles import processes
from programs import several

PROGRAM = pathlib.Path(several.__file__)
PARTS = ["train", "stacked", "not_finite", "generate", "refused"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of the two processes prints, by part."""
    folder = tmp_path_factory.mktemp("processes")
    ended = processes.run(PROGRAM, PARTS, count=2, devices=2, folder=folder, timeout=400)
    parts = []
    for process in ended:
        assert process.status == 0, process.text
        lines = [line for line in process.text.splitlines() if line.startswith("{")]
        parts.append({name: part for line in lines for name, part in json.loads(line).items()})
        parts[-1]["text"] = process.text
    return parts


@pytest.fixture(scope="module")
def alone():
    """The same of this process, which has four devices."""
    # As in a program of users', where optax's Adam multiplies a float and an int.
    with jax.numpy_dtype_promotion("standard"):
        parts = {name: several.PARTS[name]() for name in PARTS[:4]}
    return json.loads(json.dumps(parts, default=several.plain))


def compare(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if isinstance(a, str):
            assert a == b
        else:
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("part", PARTS[:4])
def test_processes_train_as_one_process_does(part, found, alone):
    first, second = (dict(process)[part] for process in found)
    compare(first, alone[part])
    # Both have the same numbers to the bit, and the first one alone warns.
    if part == "not_finite":
        assert first.pop("warned")
        assert not second.pop("warned")
    assert first == second


def test_a_process_holds_its_part_alone(found):
    assert found[0]["train"]["shard"] == [8, 8]
    # Process 0 alone shows how far it is.
    assert "training  12/12" in found[0]["text"]
    assert "training  " not in found[1]["text"]
    assert found[0]["refused"]["read"] == [8, 8]


EVERY = "  hint:     start the same program with the same arguments and data on every process"
ERRORS = {
    "model": ["fit: the processes differ in the step", "process 1 has *Dropout(0.1)*", EVERY],
    "data": ["fit: the processes differ in the data", "process 0 has *'checksum': *", EVERY],
    "order": ["fit: the processes differ in the data", "process 1 has *'key': '0:1'*", EVERY],
    "list": ["fit: the processes differ in the data", "*the checksums [[]*", EVERY],
    "steps": ["fit: the processes differ in the argument steps", "*process 1 has 3", EVERY],
    "rate": ["fit: the processes differ in the program of a step", EVERY],
    "loss": ["fit: the processes differ in the program of a step", EVERY],
    "evaluation": [
        "evaluation: the processes differ in the data",
        "process 0 has {'rows': 48*",
        "process 1 has {'rows': 64*",
        EVERY,
    ],
    "local": [
        "TrainingError: fit: there are 2 processes, and the state lies on devices of this*",
        "expected: train_step(..., mesh=mesh, rules=rules), with a mesh of all devices",
    ],
    "mesh": [
        "step.start: the mesh has no device of process 1",
        "expected: devices of all 2 processes, as jax.make_mesh takes",
        "got:      a mesh of 2 of 4 devices",
    ],
    "key": ["step.start: the processes differ in the key", "*process 1 has [[]0, 1]", EVERY],
    "input": [
        "step.start: the processes differ in the shapes of the input",
        "expected: process 0 has float32[[]16, 8]",
        "got:      process 1 has float32[[]16, 7]",
        EVERY,
    ],
    "values": [
        "step.start: the processes differ in the values that are given",
        "process 1 has *",
        EVERY,
    ],
    "rows": [
        "TrainingError: fit: the batch cannot be divided over the mesh",
        "expected: a multiple of 4, the devices along 'data'",
        "got:      an axis of 18 in the shape (18,)",
        "hint:     a batch size that they divide, and *",
    ],
    "no mesh": [
        "TrainingError: fit: there are 2 processes, and the step has no mesh: each of them would*",
        "expected: train_step(..., mesh=mesh, rules=rules), with a mesh of all devices",
        'hint:     mesh = jax.make_mesh((jax.device_count(),), ("data",))',
    ],
}


@pytest.mark.parametrize("name", ERRORS)
def test_every_process_gets_the_error(name, found):
    for process in found:
        text = process["refused"][name]
        for line in ERRORS[name]:
            wanted = re.escape(line.strip()).replace(r"\*", ".*").replace(r"\[\[\]", r"\[")
            assert re.search(wanted, text), (line, text)


# What each process does, and what then is the last line but hints that it prints, by its number.
ENDS = {
    "loader": (
        ["jlayers.ProcessError: fit: process 0 has lost another of the 2 processes", 1],
        ["ValueError: a file of process 1 is missing", 1],
    ),
    "short": (
        ["jlayers.ProcessError: fit: process 0 has lost another of the 2 processes", 1],
        ["got:      process 1 has waited at the end of its loop, after step 3", 1],
    ),
    "shape": (
        ["jlayers.ProcessError: fit: process 0 has lost another of the 2 processes", 1],
        ["got:      process 1 has waited with a first batch of float32[8, 8], float32[8, 1]", 1],
    ),
    "killed": (
        ["jlayers.ProcessError: fit: process 0 has lost another of the 2 processes", 1],
        ["", -9],
    ),
    "SIGTERM": (["ends after step", 143], ["ends after step", 143]),
}


@pytest.mark.full
@pytest.mark.parametrize("name", ENDS)
def test_how_processes_end(name, tmp_path):
    """Where one process fails, none of them waits for ever."""
    ended = processes.run(PROGRAM, ["end", name], count=2, devices=2, folder=tmp_path, timeout=200)
    for process, (text, status) in zip(ended, ENDS[name], strict=True):
        assert process.status == status, process.text
        assert text in process.text, process.text
    if name == "SIGTERM":
        steps = {re.search(r"ends after step (\d+)", process.text)[1] for process in ended}
        assert len(steps) == 1
