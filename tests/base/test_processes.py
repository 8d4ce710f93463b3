"""What processes tell each other: here with answers that the others would give, and alone."""

import json

import jax
import numpy as np
import pytest

import jlayers as jl
from jlayers.base import processes


@pytest.fixture
def others(monkeypatch):
    """Two processes of which this is the first; a list of what the second one gives."""
    answers = []

    def gathered(row, where, seconds, doing):
        content = answers.pop(0)
        room = len(row)
        return np.stack([row, processes._filled(json.dumps(content).encode(), room)])

    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "_gathered", gathered)
    return answers


def test_one_process_is_told_what_it_gives():
    assert processes.count() == 1
    assert processes.index() == 0
    assert processes.exchange("here", [1, None, {"a": "b"}]) == [[1, None, {"a": "b"}]]
    processes.agree("here", {"model": "Dense(4)"})


def test_what_is_exchanged(others):
    others += [{"step": 4}]
    assert processes.exchange("here", {"step": 3}) == [{"step": 3}, {"step": 4}]
    # What does not fit is exchanged again, with room for it.
    others += ["x" * 5000] * 2
    assert processes.exchange("here", "y") == ["y", "x" * 5000]


def test_what_differs_is_named(others):
    own = {"model": "Dense(4)", "the data": "520 rows of float32[64], shuffled by key 3"}
    theirs = own | {"the data": "520 rows of float32[64], shuffled by key 4"}

    def digests(facts):
        found = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                processes, "exchange", lambda where, value, doing: found.append(value) or [1, 1]
            )
            processes.agree("fit", facts)
        return found[0]

    others += [digests(own)]
    processes.agree("fit", own)
    others += [digests(theirs), theirs["the data"]]
    with pytest.raises(jl.ProcessError) as caught:
        processes.agree("fit", own)
    assert str(caught.value) == (
        "fit: the processes differ in the data\n"
        "  expected: process 0 has ...4], shuffled by key 3\n"
        "  got:      process 1 has ...4], shuffled by key 4\n"
        "  hint:     start the same program with the same arguments and data on every process"
    )


def test_which_errors_tell_of_another_process(others):
    gone = "UNKNOWN: Gloo AllReduce failed: [pair.cc:547] Connection closed by peer [127.0.0.1]:1"
    lost = jax.errors.JaxRuntimeError(gone + "\n(more)")
    assert processes.lost_process(lost)
    assert str(processes.ended("fit", lost)) == (
        "fit: process 0 has lost another of the 2 processes\n"
        f"  got:      {gone}\n"
        "  hint:     look at the output of the others for the one that ended first"
    )
    assert not processes.lost_process(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of"))
    assert not processes.lost_process(ValueError("Connection closed by peer"))
