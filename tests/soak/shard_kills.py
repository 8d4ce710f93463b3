"""Processes that save together, of which one is killed: only whole checkpoints are left.

    python -m soak.shard_kills 30

Four processes save one checkpoint after another of a state that is sharded over all of them. At a
random moment one of them is killed by SIGKILL. The others must end by themselves with a message;
every checkpoint must be intact, and the last one that was complete still there. Then all are
started again: what was left half-written is gone, and they continue from the latest.
"""

import argparse
import os
import pathlib
import random
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from oracles import processes as launched

from jlayers import checkpoint, sharding
from jlayers.base import processes

COUNT, DEVICES = 4, 1
# Seconds that a process waits for another one, and after which it counts as hung.
PATIENCE, TIMEOUT = 3.0, 60.0
KINDS = ("kills", "of process 0", "in a save", "left half-written", "last step", "read")
ROWS, SIZES = 8, (50_000, 200_000, 400_000)


def content(step: int) -> dict[str, np.ndarray]:
    """Arrays that are determined by their step."""
    x = np.random.default_rng(step)
    return {f"x{size}": x.integers(0, 2**31, (ROWS, size // 4), np.int32) for size in SIZES}


def state_of(step: int, mesh: Any) -> dict[str, Any]:
    over = NamedSharding(mesh, PartitionSpec("data"))
    arrays = {
        name: jax.make_array_from_callback(x.shape, over, lambda index, x=x: x[index])
        for name, x in content(step).items()
    }
    return {**arrays, "step": step}


def save_until_killed(folder: pathlib.Path) -> None:
    """Continues from the latest checkpoint; a file gets each step that was written."""
    sharding.initialize()
    processes.set_patience(PATIENCE)
    processes.end_at_once()
    mesh = jax.make_mesh((COUNT * DEVICES,), ("data",))
    checkpoints = checkpoint.CheckpointManager(folder / "run", keep=3)
    step = checkpoints.latest() or 0
    if step:
        found, expected = checkpoints.restore(state_of(0, mesh)), state_of(step, mesh)
        for name in content(0):
            for a, b in zip(
                found.tree[name].addressable_shards, expected[name].addressable_shards, strict=True
            ):
                assert (np.asarray(a.data) == np.asarray(b.data)).all(), (step, name)
    with open(folder / f"written-{processes.index()}", "a") as file:
        print(step, file=file, flush=True)
        while True:
            step += 1
            checkpoints.save(step, state_of(step, mesh))
            checkpoints.wait()
            print(step, file=file, flush=True)


def assert_intact(path: pathlib.Path) -> None:
    step, arrays = int(path.name[5:]), checkpoint.read_arrays(path)
    assert checkpoint.read_manifest(path).step == step, path
    assert arrays.pop("step") == step, path
    expected = content(step)
    assert arrays.keys() == expected.keys(), path
    for name, array in expected.items():
        assert np.array_equal(arrays[name], array), (path, name)


def last(folder: pathlib.Path) -> int:
    """The last step that any process knows to be written."""
    files = folder.glob("written-*")
    return max((int(line) for file in files for line in file.read_text().split()), default=0)


class Kill:
    """Kills a process some time after all of them have written their first checkpoint.

    Args:
      folder: what the processes write to.
      victim: the process.
      delay: seconds.
      in_a_save: whether to wait for the next save besides.
    """

    def __init__(self, folder: pathlib.Path, victim: Any, delay: float, in_a_save: bool):
        self._folder, self._victim, self._delay, self._wanted = folder, victim, delay, in_a_save
        self._before = last(folder)
        self.at: float | None = None
        self.in_a_save: bool | None = None

    def __call__(self) -> None:
        if self.at is None and last(self._folder) > self._before:
            self.at = time.monotonic() + self._delay
        if self.in_a_save is None and self.at is not None and time.monotonic() > self.at:
            saving = any(self._folder.glob("run/.step_*.writing-*"))
            if saving or not self._wanted:
                self._victim.kill()
                self.in_a_save = saving


def run(count: int, folder: pathlib.Path, seed: int = 0) -> dict[str, int]:
    """Kills so many processes, one of four at a time.

    Returns:
      How many kills there were, how many of process 0, and how many while a checkpoint was written;
      how many left something half-written; the last step; how many checkpoints were read, all of
      them intact.

    Raises:
      AssertionError: where a checkpoint is damaged or gone, or a process hangs.
    """
    pick = random.Random(seed)
    found = dict.fromkeys(KINDS, 0)
    for number in range(count):
        output, before = folder / f"output-{number}", last(folder)
        started = launched.start(__file__, [folder], count=COUNT, devices=DEVICES, folder=output)
        victim, in_a_save = pick.randrange(COUNT), pick.random() < 0.7
        kill = Kill(folder, started[victim], pick.uniform(0, 0.5), in_a_save)
        ended = launched.finish(started, output, TIMEOUT, kill)
        texts = "\n".join(f"process {i}: {one.status}\n{one.text}" for i, one in enumerate(ended))
        assert kill.at is not None, f"nothing was written\n{texts}"
        for i, one in enumerate(ended):
            # JAX itself ends the others when process 0 has gone, by SIGABRT.
            ours = one.status == 1 and "Error: " in one.text
            jax_s = one.status == -6 and "the JAX distributed service" in one.text
            ended_well = one.status == -9 if i == victim else ours or jax_s
            assert ended_well, f"process {i} of {number}\n{texts}"
        left = [path for path in (folder / "run").iterdir() if path.name.startswith(".")]
        steps = sorted((folder / "run").glob("step_*"))
        for path in steps:
            assert_intact(path)
        assert int(steps[-1].name[5:]) >= last(folder) >= before
        found["kills"] += 1
        found["of process 0"] += victim == 0
        found["in a save"] += bool(kill.in_a_save)
        found["left half-written"] += bool(left)
        found["read"] += len(steps)
        checkpoint.CheckpointManager(folder / "run")
        assert not list((folder / "run").glob(".step_*"))
    return found | {"last step": last(folder)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, number in run(options.count, pathlib.Path(folder), options.seed).items():
            print(f"{name:<20}{number:>7}")


if __name__ == "__main__":
    if "JAX_PROCESS_ID" in os.environ:
        save_until_killed(pathlib.Path(sys.argv[1]))
    else:
        main()
