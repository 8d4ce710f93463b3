"""Fresh processes in which nothing has been traced or compiled before, and what they print."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
LONGEST = 300.0  # seconds, of one process
CACHE = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


def last_line(*arguments: str) -> str:
    """The last line that ``python *arguments`` writes, without a cache of compiled programs.

    Raises:
      RuntimeError: with the last line of its errors.
    """
    environment = {name: value for name, value in os.environ.items() if name not in CACHE}
    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, timeout=LONGEST, env=environment
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"more than {LONGEST:.0f} seconds") from None
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1])
    return lines[-1]


def status_of(error: RuntimeError) -> dict[str, str]:
    """How a framework whose process failed is reported."""
    reason = str(error)[:300]
    missing = "not installed" in reason or "No module named" in reason
    return {"status": "missing" if missing else "failed", "reason": reason}
