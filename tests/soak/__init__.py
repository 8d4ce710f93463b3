"""Tests that run for minutes and are not part of the usual ones: ``make soak``.

Each has a module with the tool, which is also a program, and a test that runs it at full length:

    PYTHONPATH=.:tests python -m soak.kills 20

``test_soak_tools.py`` tests the tools themselves.
"""

import os
import pathlib
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]


def run_program(name: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    """One of the programs here, in a process of its own; its output is captured.

    It compiles as users do, without the settings by which ``conftest.py`` makes tests fast.
    """
    fast = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in fast}
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    return subprocess.run(
        [sys.executable, "-m", f"soak.{name}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "PYTHONPATH": path},
    )
