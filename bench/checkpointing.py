"""CheckpointManager: how fast they are written, and what a killed writer leaves.

python -m bench.checkpointing speed          1 GB of parameters, against cat to the same disk
python -m bench.checkpointing kill 200       writers killed at random moments
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from jlayers import training

MB = 1_000_000


def content(step: int) -> dict[str, Any]:
    """A tree that is decided by its step, different in each array and in length."""
    x = np.random.default_rng(step)
    leaves = {f"layer_{i}": x.integers(0, 256, 50_000 * (i + 1), np.uint8) for i in range(6)}
    return {"params": leaves, "step": np.int64(step)}


def write_on(folder: pathlib.Path, told: int) -> None:
    """Goes on from the latest checkpoint, and saves one after the other until it is killed."""
    with training.CheckpointManager(folder, keep=3, best=1) as checkpoints:
        step = checkpoints.latest() or 0
        if step:
            # As a run would: what the last one left must be whole.
            assert_whole(checkpoints.path(step), step)
        os.write(told, step.to_bytes(8, "little"))
        while True:
            step += 1
            for _ in range(2):  # the second takes the place of the first
                metrics = {"loss": -step % 7}
                checkpoints.save(step, content(step), metrics=metrics, position=[0, step])
                checkpoints.wait()
                os.write(told, step.to_bytes(8, "little"))


def assert_whole(path: pathlib.Path, step: int) -> None:
    arrays, told = training.read_arrays(path), training.read_manifest(path)
    expected = content(step)
    assert told.step == step, path
    assert told.position == [0, step], path
    assert arrays.pop("step") == step, path
    assert arrays.keys() == {f"params/{name}" for name in expected["params"]}, path
    for name, array in expected["params"].items():
        assert np.array_equal(arrays[f"params/{name}"], array), (path, name)


def kill(count: int, folder: pathlib.Path, seed: int = 0) -> dict[str, int]:
    """Kills ``count`` writers, one after the other, and looks at what is there.

    Returns:
      How many kills left something half-written, or half-removed; the last step; how many
      checkpoints were read, all of them whole.

    Raises:
      AssertionError: where a checkpoint is not whole, or one that was written is gone.
    """
    pick = random.Random(seed)
    half = checked = last = 0
    for _ in range(count):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            try:
                write_on(folder, writing)
            finally:
                os._exit(1)
        os.close(writing)
        # From its first word on, which comes when it has cleaned up and read the latest.
        word = os.read(reading, 8)
        time.sleep(pick.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(reading, 8):
            word = more
        os.close(reading)
        assert word, "the writer failed"
        promised = int.from_bytes(word, "little")
        half += any(path.name.startswith(".step_") for path in folder.iterdir())
        for path in folder.glob("step_*"):
            assert_whole(path, int(path.name[5:]))
            checked += 1
        latest = training.CheckpointManager(folder).latest() or 0
        assert latest >= promised >= last, (latest, promised, last)
        assert not list(folder.glob(".step_*"))
        last = promised
    return {"kills": count, "left half-written": half, "last step": last, "read whole": checked}


def seconds_of(megabytes: int, rounds: int, folder: pathlib.Path) -> dict[str, list[float]]:
    """For ``megabytes`` of parameters: cat and fsync, save_checkpoint, and what blocks."""
    import jax

    rng = np.random.default_rng(0)
    sizes = [megabytes * MB // 20] * 19 + [megabytes * MB // 2000] * 100
    host = [rng.integers(0, 2**31, size // 4, np.int32) for size in sizes]
    tree = {f"layer_{i}": jax.device_put(x) for i, x in enumerate(host)}
    source = folder / "source"
    training.save_checkpoint(folder, tree, step=0)
    shutil.copy(folder / "step_00000000" / "arrays.safetensors", source)
    shutil.rmtree(folder / "step_00000000")
    os.sync()

    def cat() -> None:
        with open(folder / "copied", "wb") as file:
            subprocess.run(["cat", source], stdout=file, check=True)
            os.fsync(file.fileno())

    def save() -> None:
        training.save_checkpoint(folder / "saved", tree, step=1)

    def copy() -> None:
        [np.array(leaf) for leaf in tree.values()]

    checkpoints = training.CheckpointManager(folder / "manager", keep=1)

    def blocked() -> None:
        checkpoints.save(1, tree)

    candidates: dict[str, Callable[[], None]] = {
        "cat and fsync": cat,
        "save_checkpoint": save,
        "copy to the host": copy,
        "CheckpointManager.save": blocked,
    }
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name in list(candidates)[:: 1 if turn % 2 else -1]:
            # Each makes a new file, and none writes while another is timed.
            for old in ("copied", "saved", "manager/step_00000001"):
                path = folder / old
                path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
            os.sync()
            start = time.perf_counter()
            candidates[name]()
            if turn:
                seconds[name].append(time.perf_counter() - start)
            checkpoints.wait()
    return seconds


def throughput(megabytes: int, rounds: int, folder: pathlib.Path) -> None:
    """Prints them, and how they stand to each other."""
    seconds = seconds_of(megabytes, rounds, folder)
    for name, values in seconds.items():
        median = statistics.median(values)
        spread = f"{min(values):.3f} to {max(values):.3f}"
        speed = megabytes * MB / median / 1e9
        print(f"{name:<20}{median:>8.3f} s  ({spread})  {speed:6.2f} GB/s")
    print(f"speed of save_checkpoint over cat, median of {rounds}: {speed_over_cat(seconds):.2f}")
    print(f"blocked over a copy to the host, median: {blocked_over_copy(seconds):.2f}")


def speed_over_cat(seconds: dict[str, list[float]]) -> float:
    return _ratio(seconds, "cat and fsync", "save_checkpoint")


def blocked_over_copy(seconds: dict[str, list[float]]) -> float:
    return _ratio(seconds, "CheckpointManager.save", "copy to the host")


def _ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    """The median of the ratios of calls that came one after the other."""
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("speed", "kill"))
    parser.add_argument("count", type=int, nargs="?", help="of kills, or of rounds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--folder", help="on the disk that is asked about; a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.what == "speed":
            throughput(options.megabytes, options.count or 7, pathlib.Path(folder))
            return
        # JAX warns of forks; the writers never touch a device.
        warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
        for name, number in kill(options.count or 200, pathlib.Path(folder), options.seed).items():
            print(f"{name:<20}{number:>7}")


if __name__ == "__main__":
    sys.exit(main())
