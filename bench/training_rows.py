"""What of training is measured, as rows: the loop, checkpoints, kills and mutated files.

Each row is a function of (seconds, most calls) that gives its ``Row``.
"""

import functools
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable

from . import checkpointing, kills, training_loop, training_memory
from .neighbours import mark, share_of_others
from .sequences import Row

ROOT = pathlib.Path(__file__).parents[1]
# Saves of a gigabyte, whatever the budget.
SAVES = 5


@functools.cache
def _saved(megabytes: int, rounds: int) -> tuple[dict[str, list[float]], float | None]:
    """Seconds, and the share of other processes: measured once for two rows."""
    start = mark()
    with tempfile.TemporaryDirectory() as folder:
        seconds = checkpointing.seconds_of(megabytes, rounds, pathlib.Path(folder))
    return seconds, share_of_others(start)


def write(budget: float, rounds: int, megabytes: int = 1000) -> Row:
    """How fast a checkpoint is written, against ``cat`` to the same disk."""
    seconds, others = _saved(megabytes, min(rounds, SAVES))
    ratio = checkpointing.speed_over_cat(seconds)
    return Row(
        f"checkpoint of {megabytes} MB: speed of writing over cat to the same disk",
        f"{ratio:.2f}x ({_medians(seconds, 'save_checkpoint', 'cat and fsync')})",
        "at least 0.8x",
        ratio >= 0.8,
        seconds,
        others,
    )


def blocking(budget: float, rounds: int, megabytes: int = 1000) -> Row:
    """How long training stands still, against a copy of the arrays to the host."""
    seconds, others = _saved(megabytes, min(rounds, SAVES))
    ratio = checkpointing.blocked_over_copy(seconds)
    return Row(
        f"checkpoint of {megabytes} MB: training blocked, over a copy to the host",
        f"{ratio:.2f}x ({_medians(seconds, 'CheckpointManager.save', 'copy to the host')})",
        "1x",
        round(ratio, 2) <= 1,
        seconds,
        others,
    )


def _medians(seconds: dict[str, list[float]], *names: str) -> str:
    return ", ".join(f"{name} {statistics.median(seconds[name]):.3g} s" for name in names)


def fuzz(budget: float, rounds: int, count: int = 20_000) -> Row:
    """Mutated checkpoints, in a process whose memory is limited."""
    command = [sys.executable, "-m", "bench.checkpoint_fuzz", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        figure, holds = (done.stderr.strip().splitlines() or ["no word"])[-1], False
    else:
        *lines, last = done.stdout.splitlines()
        ends = {"refused": 0, "read": 0}
        for line in lines:
            # "signed json: refused   123", after lines that say how far it has come.
            what, _, number = line.rpartition(" ")
            name = what.rpartition(": ")[2].strip()
            if name in ends:
                ends[name] += int(number)
        figure = f"{ends['refused']} refused, {ends['read']} read;{last.partition(';')[2]}"
        holds = sum(ends.values()) == count
    question = f"{count:,} mutated checkpoints: refused with a message, or read back exactly"
    return Row(question, figure, "nothing else", holds, {}, None)


ROWS: dict[str, Callable[[float, int], Row]] = {
    "loop-overhead": training_loop.overhead,
    "loop-32": training_loop.many,
    "step-memory": training_memory.step_memory,
    "checkpoint-write": write,
    "checkpoint-blocking": blocking,
    "kill-9": kills.row,
    "checkpoint-fuzz": fuzz,
}
