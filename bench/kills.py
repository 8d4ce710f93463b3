"""Training programs that are killed: each restart goes on from a whole checkpoint, to the same end.

    python -m bench.kills 200

A program trains a small model by ``fit`` and saves every few steps. It is killed by SIGKILL at a
moment drawn uniformly over the life of a program that nobody kills, from the fork of its process
on, so that kills fall into its start, compilation, steps and writes. It is started again, until it
ends; then the next program begins.
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
from jlayers import JlayersError, training

from .sequences import Row

# Forks of a process that has imported what takes long to import, and has not begun to use a device.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["jax", "optax", "jlayers.training"])
X = np.random.default_rng(0).normal(size=(520, 64)).astype(np.float32)
LABELS = (X.sum(1) > 0).astype(np.int32)
LOG, RESUMED, CHECKPOINTS = "log.jsonl", "resumed.jsonl", "checkpoints"
# Seconds after which a program that was not killed counts as hung.
PATIENCE = 120
STEPS = 3000


def _loss(logits: Any, labels: Any) -> Any:
    value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return value, {"right": (logits.argmax(-1) == labels).sum(dtype=np.int32)}


def _arguments(**options: Any) -> dict[str, Any]:
    model = jl.serial(jl.Dense(64), jl.BatchNorm(), jax.nn.relu, jl.Dropout(0.3), jl.Dense(2))
    step = training.train_step(model, _loss, optax.adam(1e-3), ema=0.9)
    return {
        "step": step,
        # Compiled as one program it is there sooner.
        "run": jax.jit(lambda key: step.start(key, jl.spec((16, 64))))(jax.random.key(0)),
        "data": training.Batches((X, LABELS), 16, key=3),
        "log_every": 10,
        **options,
    }


PROGRAMS: dict[str, Callable[[], dict[str, Any]]] = {
    "a step at a time": lambda: _arguments(checkpoint_every=20),
    "three steps in a call": lambda: _arguments(checkpoint_every=33, steps_per_call=3),
}


def program(name: str, folder: pathlib.Path, steps: int) -> None:
    """Trains to the end, from the newest checkpoint on; any warning is an error."""
    warnings.simplefilter("error")
    arguments = PROGRAMS[name]()
    with training.CheckpointManager(folder / CHECKPOINTS) as checkpoints:
        with open(folder / RESUMED, "a") as file:
            print(checkpoints.latest() or 0, file=file)
        training.fit(
            **arguments,
            steps=steps,
            checkpoints=checkpoints,
            callbacks=[training.json_lines(folder / LOG)],
            progress=False,
        )


def start(name: str, folder: pathlib.Path, steps: int) -> Any:
    process = _PROCESSES.Process(target=program, args=(name, folder, steps))
    process.start()
    return process


def ended(process: Any) -> None:
    """Waits for the end of a program.

    Raises:
      AssertionError: where it failed, or hangs.
    """
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"a program hangs: no end after {PATIENCE} seconds")
    assert process.exitcode == 0, f"a program failed with exit code {process.exitcode}"


def whole(folder: pathlib.Path) -> int:
    """Reads all checkpoints that have their name; the newest step, 0 where there is none.

    Raises:
      JlayersError: where one of them is not whole.
    """
    found = list((folder / CHECKPOINTS).glob("step_*"))
    for path in found:
        training.read_arrays(path)
        assert training.read_manifest(path).step == int(path.name[5:]), path
    return max((int(path.name[5:]) for path in found), default=0)


def end_of(folder: pathlib.Path) -> tuple[dict[str, Any], Any]:
    """What a program left: its arrays, and all that does not depend on the clock."""
    newest = max((folder / CHECKPOINTS).glob("step_*"))
    told = training.read_manifest(newest)
    records = training.read_json_lines(folder / LOG)
    history = [training.Record(*row) for row in told.history]
    timeless = [
        [row._replace(seconds=0.0, rate=0.0) for row in rows] for rows in (records, history)
    ]
    return training.read_arrays(newest), (told.step, told.position, told.extra, timeless)


def same_end(folder: pathlib.Path, other: pathlib.Path) -> None:
    """The two ended in the same bits.

    Raises:
      AssertionError: where they did not.
    """
    (arrays, told), (expected, wanted) = end_of(folder), end_of(other)
    assert arrays.keys() == expected.keys()
    for path, array in arrays.items():
        raw, own = (np.asarray(value) for value in (array, expected[path]))
        assert raw.dtype == own.dtype, path
        assert raw.tobytes() == own.tobytes(), f"{path} ends in other bits"
    assert told == wanted, f"ended with {told}, not {wanted}"


class Trial:
    """Programs of one kind, and the end of the one that nobody kills, which they must reach."""

    def __init__(self, name: str, folder: pathlib.Path, steps: int):
        self.name, self.steps = name, steps
        self.folder, self.expected, again = (folder / part for part in ("killed", "whole", "again"))
        for place in (self.expected, again):
            place.mkdir(parents=True)
            began = time.perf_counter()
            ended(start(name, place, steps))
            self.life = time.perf_counter() - began
        same_end(again, self.expected)

    def killed(self, pick: random.Random, kills: int) -> collections.Counter[str]:
        """One program, killed until it ends, or until it was killed so often.

        Raises:
          AssertionError: where it does not go on from its newest checkpoint, or ends elsewhere.
          JlayersError: where a checkpoint that has its name is not whole.
        """
        counts: collections.Counter[str] = collections.Counter()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        newest, halves, opened = 0, set[str](), 0
        while counts["kills"] < kills:
            began_at = time.perf_counter()
            process = start(self.name, self.folder, self.steps)
            process.join(pick.uniform(0, self.life))
            if process.exitcode is not None:
                if not counts["kills"]:  # a whole life, and a shorter one on a freer machine
                    self.life = time.perf_counter() - began_at
                break
            process.kill()
            process.join()
            if process.exitcode != -signal.SIGKILL:
                break
            counts["kills"] += 1
            before, newest = newest, whole(self.folder)
            assert newest >= before, f"the checkpoint of step {before} is gone"
            left = {path.name for path in self.folder.glob(f"{CHECKPOINTS}/.*")}
            began = self._began()
            assert began[opened:] in ([], [before]), f"went on from {began[opened:]}, not {before}"
            where = "in a write" if left - halves else "after the start"
            counts[where if len(began) > opened else "at the start"] += 1
            halves, opened = left, len(began)
        else:
            process = start(self.name, self.folder, self.steps)
        ended(process)
        assert self._began()[opened:] == [newest], f"went on from {self._began()}, not {newest}"
        same_end(self.folder, self.expected)
        counts["programs"] += 1
        return counts

    def _began(self) -> list[int]:
        """The steps at which processes took up the program."""
        told = self.folder / RESUMED
        return [int(line) for line in told.read_text().split()] if told.exists() else []


def run(
    kills: int, steps: int = STEPS, seed: int = 0, tell: Callable[[str], None] = print
) -> dict[str, int]:
    """Kills so often, over as many programs as it takes, two at a time.

    Returns:
      How many kills there were, how many fell into the start of a process (before it opened its
      checkpoints), into a write (a folder was left half-written or half-removed) or elsewhere, and
      how many programs came to their end.

    Raises:
      AssertionError, JlayersError: where a kill did any harm.
    """

    def share(number: int) -> collections.Counter[str]:
        name, most = list(PROGRAMS)[number], len(range(number, kills, len(PROGRAMS)))
        pick, counts = random.Random(f"{seed}/{name}"), collections.Counter[str]()
        trial = Trial(name, pathlib.Path(folder, str(number)), steps)
        while counts["kills"] < most:
            counts += trial.killed(pick, most - counts["kills"])
            tell(f"{name}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
        return counts

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(PROGRAMS)) as two:
        return dict(sum(two.map(share, range(len(PROGRAMS))), collections.Counter[str]()))


def row(budget: float, rounds: int, kills: int = 200) -> Row:
    """Whether a training that is killed at any moment comes to its end as if nothing had been."""
    counts: dict[str, int] = {}
    try:
        counts = run(kills, tell=lambda text: None)
        figure = f"{counts['kills']} of {kills}"
        figure += f", {counts.get('in a write', 0)} in a write; {counts['programs']} programs"
    except (AssertionError, JlayersError) as error:
        figure = str(error)
    question = "kill -9 at random moments: resumed from a whole checkpoint, to the same bits"
    holds = counts.get("kills") == kills
    return Row(question, figure, f"{kills} of {kills}", holds, {}, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name, count in run(options.kills, seed=options.seed).items():
        print(f"{name:<20}{count:>7}")


if __name__ == "__main__":
    main()
