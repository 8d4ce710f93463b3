"""Killed training programs: each restart must resume from an intact checkpoint, to the same bits.

    python -m soak.kills 200

A program trains a small model by ``fit`` and saves every few steps. It is killed by SIGKILL at a
random moment, drawn uniformly over the duration of a program that is not killed, from the fork of
its process on: kills fall into its start, compilation, steps and writes. It is started again until
it completes; then the next program begins.
"""

import argparse
import collections
import multiprocessing
import pathlib
import random
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import optax

import jlayers as jl
from jlayers import training

# Forks of a process that has imported what takes long to import and has not used a device yet.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["jax", "optax", "jlayers.training"])
X = np.random.default_rng(0).normal(size=(520, 64)).astype(np.float32)
LABELS = (X.sum(1) > 0).astype(np.int32)
LOG, RESUMED, CHECKPOINTS = "log.jsonl", "resumed.jsonl", "checkpoints"
# Seconds after which a program that was not killed counts as hung.
TIMEOUT = 120
STEPS = 3000


def _loss(logits: Any, labels: Any) -> Any:
    value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return value, {"right": (logits.argmax(-1) == labels).sum(dtype=np.int32)}


def _arguments(**options: Any) -> dict[str, Any]:
    model = jl.serial(jl.Dense(64), jl.BatchNorm(), jax.nn.relu, jl.Dropout(0.3), jl.Dense(2))
    step = training.train_step(model, _loss, optax.adam(1e-3), ema=0.9)
    return {
        "step": step,
        # Compiled as one program, which is faster.
        "state": jax.jit(lambda key: step.start(key, jl.spec((16, 64))))(jax.random.key(0)),
        "data": training.Batches((X, LABELS), 16, key=3),
        "log_every": 10,
        **options,
    }


PROGRAMS: dict[str, Callable[[], dict[str, Any]]] = {
    "a step at a time": lambda: _arguments(checkpoint_every=20),
    "three steps in a call": lambda: _arguments(checkpoint_every=33, steps_per_call=3),
}


def program(name: str, folder: pathlib.Path, steps: int) -> None:
    """Trains to the end, from the newest checkpoint if there is one; any warning is an error."""
    warnings.simplefilter("error")
    # A kill may come after the last checkpoint.
    warnings.filterwarnings("ignore", "resumed at step .*, nothing to do")
    # Kills must fall into compilation too.
    jax.config.update("jax_enable_compilation_cache", False)
    arguments = PROGRAMS[name]()
    with training.CheckpointManager(folder / CHECKPOINTS) as checkpoints:
        with open(folder / RESUMED, "a") as file:
            print(checkpoints.latest() or 0, file=file)
        training.fit(
            **arguments,
            steps=steps,
            checkpoints=checkpoints,
            hooks=[training.json_lines(folder / LOG)],
            progress=False,
        )


def start(name: str, folder: pathlib.Path, steps: int) -> Any:
    process = _PROCESSES.Process(target=program, args=(name, folder, steps))
    process.start()
    return process


def wait_for_success(process: Any) -> None:
    """Waits for the end of a program.

    Raises:
      AssertionError: where it failed, or hangs.
    """
    process.join(TIMEOUT)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"a program hangs: no end after {TIMEOUT} seconds")
    assert process.exitcode == 0, f"a program failed with exit code {process.exitcode}"


def newest_intact(folder: pathlib.Path) -> int:
    """Reads all finished checkpoints; the newest step, 0 where there are none.

    Raises:
      JlayersError: where one of them is not intact.
    """
    found = list((folder / CHECKPOINTS).glob("step_*"))
    for path in found:
        training.read_arrays(path)
        assert training.read_manifest(path).step == int(path.name[5:]), path
    return max((int(path.name[5:]) for path in found), default=0)


def outcome(folder: pathlib.Path) -> tuple[dict[str, Any], Any]:
    """What a program left: its arrays, and all that does not depend on the clock."""
    newest = max((folder / CHECKPOINTS).glob("step_*"))
    manifest = training.read_manifest(newest)
    records = training.read_json_lines(folder / LOG)
    history = [training.Record(*row) for row in manifest.history]
    timeless = [
        [row._replace(seconds=0.0, steps_per_second=0.0) for row in rows]
        for rows in (records, history)
    ]
    described = (manifest.step, manifest.position, manifest.extra, timeless)
    return training.read_arrays(newest), described


def assert_same_outcome(folder: pathlib.Path, other: pathlib.Path) -> None:
    """The two programs ended with the same bits.

    Raises:
      AssertionError: where they did not.
    """
    (arrays, described), (expected, right) = outcome(folder), outcome(other)
    assert arrays.keys() == expected.keys()
    for path, array in arrays.items():
        got, own = (np.asarray(value) for value in (array, expected[path]))
        assert got.dtype == own.dtype, path
        assert got.tobytes() == own.tobytes(), f"{path} ends with other bits"
    assert described == right, f"ended with {described}, not {right}"


class Trial:
    """Programs of one kind, and the outcome of one that is not killed, which they must reach."""

    def __init__(self, name: str, folder: pathlib.Path, steps: int):
        self.name, self.steps = name, steps
        self.folder, self.expected, again = (
            folder / part for part in ("killed", "complete", "again")
        )
        for own in (self.expected, again):
            own.mkdir(parents=True)
            began = time.perf_counter()
            wait_for_success(start(name, own, steps))
            self.duration = time.perf_counter() - began
        assert_same_outcome(again, self.expected)

    def killed(self, pick: random.Random, kills: int) -> collections.Counter[str]:
        """One program, killed until it completes, or at most so many times.

        Raises:
          AssertionError: where it does not resume from its newest checkpoint, or ends differently.
          JlayersError: where a finished checkpoint is not intact.
        """
        counts: collections.Counter[str] = collections.Counter()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        newest, unfinished, resumed = 0, set[str](), 0
        while counts["kills"] < kills:
            began_at = time.perf_counter()
            process = start(self.name, self.folder, self.steps)
            process.join(pick.uniform(0, self.duration))
            if process.exitcode is not None:
                if not counts["kills"]:  # a full duration, and a shorter one on a quieter machine
                    self.duration = time.perf_counter() - began_at
                break
            process.kill()
            process.join()
            if process.exitcode != -signal.SIGKILL:
                break
            counts["kills"] += 1
            before, newest = newest, newest_intact(self.folder)
            assert newest >= before, f"the checkpoint of step {before} is gone"
            left = {path.name for path in self.folder.glob(f"{CHECKPOINTS}/.*")}
            starts = self._resumed_from()
            new = starts[resumed:]
            assert new in ([], [before]), f"resumed from {new}, not {before}"
            where = "in a write" if left - unfinished else "after the start"
            counts[where if new else "at the start"] += 1
            unfinished, resumed = left, len(starts)
        else:
            process = start(self.name, self.folder, self.steps)
        wait_for_success(process)
        new = self._resumed_from()[resumed:]
        assert new == [newest], f"resumed from {new}, not {newest}"
        assert_same_outcome(self.folder, self.expected)
        counts["programs"] += 1
        return counts

    def _resumed_from(self) -> list[int]:
        """The steps at which the processes began, 0 for a fresh start."""
        log = self.folder / RESUMED
        return [int(line) for line in log.read_text().split()] if log.exists() else []


def run(
    kills: int, steps: int = STEPS, seed: int = 0, report: Callable[[str], None] = print
) -> dict[str, int]:
    """Kills so many times, over as many programs as it takes, two at a time.

    Returns:
      How many kills there were, how many fell into the start of a process (before it opened its
      checkpoints), into a write (a folder was left half-written or half-removed) or elsewhere, and
      how many programs completed.

    Raises:
      AssertionError, JlayersError: where a kill did any damage.
    """

    def share(number: int) -> collections.Counter[str]:
        name, most = list(PROGRAMS)[number], len(range(number, kills, len(PROGRAMS)))
        pick, counts = random.Random(f"{seed}/{name}"), collections.Counter[str]()
        trial = Trial(name, pathlib.Path(folder, str(number)), steps)
        while counts["kills"] < most:
            counts += trial.killed(pick, most - counts["kills"])
            report(f"{name}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
        return counts

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(PROGRAMS)) as two:
        return dict(sum(two.map(share, range(len(PROGRAMS))), collections.Counter[str]()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name, count in run(options.kills, seed=options.seed).items():
        print(f"{name:<20}{count:>7}")


if __name__ == "__main__":
    main()
