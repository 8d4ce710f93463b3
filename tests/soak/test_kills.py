"""``kill -9`` at 200 random moments, of programs that train and of programs that only save."""

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
