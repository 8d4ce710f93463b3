"""Checkpoint writers that are killed must leave intact checkpoints alone.

    python -m soak.writer_kills 200

A writer saves one small checkpoint after another, each step twice, until it is killed at a random
moment; then another one continues from the latest.
"""

import argparse
import os
import pathlib
import random
import signal
import tempfile
import time
import warnings
from typing import Any

import numpy as np

from jlayers import training


def content(step: int) -> dict[str, Any]:
    """A tree that is determined by its step, different in each array and in length."""
    x = np.random.default_rng(step)
    leaves = {f"layer_{i}": x.integers(0, 256, 50_000 * (i + 1), np.uint8) for i in range(6)}
    return {"params": leaves, "step": np.int64(step)}


def write_until_killed(folder: pathlib.Path, pipe: int) -> None:
    """Continues from the latest checkpoint; the pipe gets each step that was written."""
    with training.CheckpointManager(folder, keep=3, best=1) as checkpoints:
        step = checkpoints.latest() or 0
        if step:
            # As a training program would: what the last writer left must be intact.
            assert_intact(checkpoints.path(step), step)
        os.write(pipe, step.to_bytes(8, "little"))
        while True:
            step += 1
            for _ in range(2):  # the second replaces the first
                metrics = {"loss": -step % 7}
                checkpoints.save(step, content(step), metrics=metrics, position=[0, step])
                checkpoints.wait()
                os.write(pipe, step.to_bytes(8, "little"))


def assert_intact(path: pathlib.Path, step: int) -> None:
    arrays, manifest = training.read_arrays(path), training.read_manifest(path)
    expected = content(step)
    assert manifest.step == step, path
    assert manifest.position == [0, step], path
    assert arrays.pop("step") == step, path
    assert arrays.keys() == {f"params/{name}" for name in expected["params"]}, path
    for name, array in expected["params"].items():
        assert np.array_equal(arrays[f"params/{name}"], array), (path, name)


def run(count: int, folder: pathlib.Path, seed: int = 0) -> dict[str, int]:
    """Kills ``count`` writers, one after the other, and reads what is there.

    Returns:
      How many kills left something half-written, or half-removed; the last step; how many
      checkpoints were read, all of them intact.

    Raises:
      AssertionError: where a checkpoint is not intact, or one that was written is gone.
    """
    pick = random.Random(seed)
    unfinished = checked = last = 0
    for _ in range(count):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            try:
                write_until_killed(folder, writing)
            finally:
                os._exit(1)
        os.close(writing)
        # From its first message on, which comes when it has cleaned up and read the latest.
        message = os.read(reading, 8)
        time.sleep(pick.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(reading, 8):
            message = more
        os.close(reading)
        assert message, "the writer failed"
        written = int.from_bytes(message, "little")
        unfinished += any(path.name.startswith(".step_") for path in folder.iterdir())
        for path in folder.glob("step_*"):
            assert_intact(path, int(path.name[5:]))
            checked += 1
        latest = training.CheckpointManager(folder).latest() or 0
        assert latest >= written >= last, (latest, written, last)
        assert not list(folder.glob(".step_*"))
        last = written
    return {
        "kills": count,
        "left half-written": unfinished,
        "last step": last,
        "read intact": checked,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="on the disk in question; a temporary one")
    options = parser.parse_args()
    # JAX warns of forks; the writers never use a device.
    warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, number in run(options.count, pathlib.Path(folder), options.seed).items():
            print(f"{name:<20}{number:>7}")


if __name__ == "__main__":
    main()
