"""How long does it take to start? Every framework in a fresh process, nothing compiled before.

Rows: from the start of the process to the end of the first training step of a transformer of 48
blocks; and the parameters of a ResNet-50, imports not counted.

    python -m bench.startup first_step linen

is one such process. It prints when its time begins, 0 for the start of the process, and when it
ends, as ``time.time``; it imports nothing before it must.
"""

import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

from .frameworks import LIBRARIES, Unavailable, part

ROWS = {"first step of a 48-block transformer": "first_step", "init of a ResNet-50": "init"}
ROOT = pathlib.Path(__file__).parents[1]
LONGEST = 300.0  # seconds, of one process


def measure(names: tuple[str, ...] = LIBRARIES, rounds: int = 3) -> dict[str, dict[str, Any]]:
    """For each row and framework the mode "start", or why there is none; timed in turns."""
    rows: dict[str, dict[str, Any]] = {}
    for row, what in ROWS.items():
        seconds: dict[str, list[float]] = {name: [] for name in names}
        failed: dict[str, Any] = {}
        for _ in range(rounds):
            for name in [name for name in names if name not in failed]:
                try:
                    seconds[name].append(seconds_of_process(what, name))
                except RuntimeError as error:
                    reason = str(error)[:300]
                    missing = "not installed" in reason or "No module named" in reason
                    status = "missing" if missing else "failed"
                    failed[name] = {"status": status, "reason": reason}
        rows[row] = {name: failed.get(name) or _started(seconds[name]) for name in names}
    return rows


def seconds_of_process(what: str, name: str) -> float:
    """Seconds of one fresh process.

    Raises:
      RuntimeError: with the last line that the process wrote.
    """
    command = [sys.executable, "-m", "bench.startup", what, name]
    start = time.time()
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"more than {LONGEST:.0f} seconds") from None
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1])
    started, ended = map(float, lines[-1].split())
    return ended - (started or start)


def _started(values: list[float]) -> dict[str, Any]:
    spread = {"low": min(values), "high": max(values), "calls": len(values)}
    return {"status": "ok", "start": {"median": statistics.median(values), **spread}}


def init(name: str) -> float:
    """Makes the parameters; the time when that began, after all imports."""
    from .frameworks.sizes import resnet

    make, model = part(name, "train").init, part(name, "models").MODELS["conv_net"]
    if name != "torch":
        import jax

        # Starting the device does not count.
        jax.block_until_ready(jax.numpy.zeros(3) + 1)
    started = time.time()
    make(model, resnet())
    return started


def main(what: str, name: str) -> None:
    from .steps.table import first_step

    started = 0.0
    try:
        if what == "init":
            started = init(name)
        else:
            first_step(name)
    except (Unavailable, ModuleNotFoundError) as reason:
        sys.exit(str(reason))
    print(started, time.time())


if __name__ == "__main__":
    main(*sys.argv[1:])
