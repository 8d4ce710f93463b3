"""``kill -9`` at random moments, of programs that train and of programs that only save."""

import functools

import pytest

from . import kills, run_program

pytestmark = pytest.mark.soak


def test_killed_training_resumes(record_property):
    counts = kills.run(200)
    in_a_write = counts.get("in a write", 0)
    figure = f"{counts['kills']} of 200, {in_a_write} in a write; {counts['programs']} programs"
    record_property("figure", figure)
    assert counts["kills"] == 200


def test_killed_writers_leave_intact_checkpoints_only(tmp_path):
    # In a process of its own: it forks, which JAX's threads would not survive.
    done = run_program("writer_kills", 200, "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    numbers = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines())
    assert numbers["kills"] == "200"
    assert int(numbers["read intact"]) > 0


# The first only save, the second train: there a restart must end with the same bits.
@pytest.mark.parametrize("program", ["shard_kills", "process_kills"])
def test_a_killed_process_of_several(program, record_property):
    done = run_program(program, 30)
    assert done.returncode == 0, done.stderr
    split = functools.partial(str.rsplit, maxsplit=1)
    numbers = {name.strip(): int(n) for name, n in map(split, done.stdout.splitlines())}
    record_property("figure", f"{numbers['kills']} of 30, {numbers['in a save']} in a save")
    assert numbers["kills"] == 30
    assert numbers["in a save"] > 0
