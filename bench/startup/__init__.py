"""How long does it take to start? Every framework in a fresh process, nothing compiled before.

Rows: from the start of the process to the end of the first training step of a transformer of 48
blocks; and the parameters of a ResNet-50, imports not counted.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

ROWS = {
    "first step of a 48-block transformer": "first_step",
    "init of a ResNet-50": "init",
}
FRAMEWORKS = ("jlayers", "linen", "nnx", "equinox", "haiku", "keras", "torch")
ROOT = pathlib.Path(__file__).parents[2]
LONGEST = 300.0  # seconds, of one process


def measure(names: tuple[str, ...] = FRAMEWORKS, rounds: int = 3) -> dict[str, dict[str, Any]]:
    """``{"rows": {row: {framework: {"seconds", "low", "high", "calls"}}}}``, in turns.

    A framework that fails has ``{"seconds": None, "status", "reason"}``.
    """
    rows: dict[str, dict[str, Any]] = {}
    for row, what in ROWS.items():
        seconds: dict[str, list[float]] = {name: [] for name in names}
        failed: dict[str, Any] = {}
        for _ in range(rounds):
            for name in names:
                if name not in failed:
                    try:
                        seconds[name].append(one(what, name))
                    except RuntimeError as error:
                        failed[name] = _failure(str(error))
        rows[row] = {name: failed.get(name) or _spread(values) for name, values in seconds.items()}
    return {"rows": rows}


def one(what: str, name: str) -> float:
    """Seconds of one fresh process.

    Raises:
      RuntimeError: with the last line that the process wrote.
    """
    command = [sys.executable, "-m", f"{__name__}.fresh", what, name]
    around = {**os.environ, "KERAS_BACKEND": "jax"}
    start = time.time()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=around, cwd=ROOT, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"more than {LONGEST:.0f} seconds") from None
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1])
    begun, ended = map(float, lines[-1].split())
    return ended - (begun or start)


def _spread(values: list[float]) -> dict[str, Any]:
    return {
        "seconds": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "calls": len(values),
    }


def _failure(reason: str) -> dict[str, Any]:
    missing = "not installed" in reason or "No module named" in reason
    status = "missing" if missing else "failed"
    return {"seconds": None, "status": status, "reason": reason[:300]}
