"""How fast are checkpoints written, and how long do they block training?"""

import functools
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jlayers import training

from .noise import mark, share_of_others
from .questions import Answer, Question

MB = 1_000_000
# Saves of a gigabyte, at any budget.
SAVES = 5
Seconds = dict[str, list[float]]


def seconds_of(megabytes: int, rounds: int, folder: pathlib.Path) -> Seconds:
    """Times cat and fsync, save_checkpoint, a copy to the host, and the blocking part of a save."""
    rng = np.random.default_rng(0)
    sizes = [megabytes * MB // 20] * 19 + [megabytes * MB // 2000] * 100
    host = [rng.integers(0, 2**31, size // 4, np.int32) for size in sizes]
    tree = {f"layer_{i}": jax.device_put(x) for i, x in enumerate(host)}
    source, checkpoint = folder / "source", training.save_checkpoint(folder, tree, step=0)
    with open(source, "wb") as file:
        subprocess.run(["cat", *checkpoint.glob("*.safetensors")], stdout=file, check=True)
    shutil.rmtree(checkpoint)

    def cat() -> None:
        with open(folder / "copied", "wb") as file:
            subprocess.run(["cat", source], stdout=file, check=True)
            os.fsync(file.fileno())

    checkpoints = training.CheckpointManager(folder / "manager", keep=1)
    candidates: dict[str, Callable[[], Any]] = {
        "cat and fsync": cat,
        "save_checkpoint": lambda: training.save_checkpoint(folder / "saved", tree, step=1),
        "copy to the host": lambda: [np.array(leaf) for leaf in tree.values()],
        "CheckpointManager.save": lambda: checkpoints.save(1, tree),
    }
    seconds: Seconds = {name: [] for name in candidates}
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


@functools.cache
def _saved(megabytes: int, rounds: int) -> tuple[Seconds, float | None]:
    """Seconds, and the share of other processes: measured once for two rows."""
    start = mark()
    with tempfile.TemporaryDirectory() as folder:
        seconds = seconds_of(megabytes, rounds, pathlib.Path(folder))
    return seconds, share_of_others(start)


def write(budget: float, rounds: int, megabytes: int = 1000) -> Answer:
    """How fast a checkpoint is written, against ``cat`` to the same disk."""
    seconds, others = _saved(megabytes, min(rounds, SAVES))
    ratio, figure = _ratio(seconds, "cat and fsync", "save_checkpoint")
    question = f"checkpoint of {megabytes} MB: speed of writing over cat to the same disk"
    return Answer(question, figure, "at least 0.8x", ratio >= 0.8, seconds, others)


def blocking(budget: float, rounds: int, megabytes: int = 1000) -> Answer:
    """How long training waits for a save, against a copy of the arrays to the host."""
    seconds, others = _saved(megabytes, min(rounds, SAVES))
    ratio, figure = _ratio(seconds, "CheckpointManager.save", "copy to the host")
    question = f"checkpoint of {megabytes} MB: training blocked, over a copy to the host"
    return Answer(question, figure, "1x", round(ratio, 2) <= 1, seconds, others)


def _ratio(seconds: Seconds, *names: str) -> tuple[float, str]:
    """The median of the ratios of calls that came one after the other; and as text."""
    pairs = zip(*(seconds[name] for name in names), strict=True)
    ratio = statistics.median(a / b for a, b in pairs)
    medians = (f"{name} {statistics.median(seconds[name]):.3g} s" for name in names)
    return ratio, f"{ratio:.2f}x ({', '.join(medians)})"


ROWS: dict[str, Question] = {"checkpoint-write": write, "checkpoint-blocking": blocking}
