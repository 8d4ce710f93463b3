"""Several processes on this machine that join by ``jax.distributed``: started, watched, killed."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

_ROOT = pathlib.Path(__file__).parents[2]


class Ended(NamedTuple):
    """How a process ended: its exit status, and all that it printed."""

    status: int
    text: str


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    program: str | pathlib.Path,
    arguments: Sequence[object] = (),
    *,
    count: int,
    devices: int,
    folder: pathlib.Path,
) -> list[subprocess.Popen[bytes]]:
    """Starts a program as so many processes of so many devices; their output goes to files.

    Args:
      program: a file of Python, which calls ``sharding.initialize``.
      arguments: of its command line.
      count, devices: of processes, and of devices for each.
      folder: for ``process-0.txt`` and so on.
    """
    environment = os.environ | {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "tests")]),
        # Two processes to a core: waiting threads must not spin.
        "OMP_NUM_THREADS": "1",
    }
    folder.mkdir(parents=True, exist_ok=True)
    processes = []
    for index in range(count):
        with open(folder / f"process-{index}.txt", "wb") as output:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-u", str(program), *map(str, arguments)],
                    env=environment | {"JAX_PROCESS_ID": str(index)},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                )
            )
    return processes


def finish(
    processes: Sequence[subprocess.Popen[bytes]],
    folder: pathlib.Path,
    timeout: float,
    meanwhile: Callable[[], object] = lambda: None,
) -> list[Ended]:
    """Waits for all processes, and kills those that are left after ``timeout`` seconds.

    Args:
      meanwhile: called every hundredth of a second.
    """
    end = time.monotonic() + timeout
    try:
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            meanwhile()
            time.sleep(0.01)
    finally:
        for process in processes:
            # jax.distributed catches SIGTERM.
            process.kill()
            process.wait()
    texts = [
        (folder / f"process-{index}.txt").read_text("utf-8", "replace")
        for index in range(len(processes))
    ]
    return [Ended(process.returncode, text) for process, text in zip(processes, texts, strict=True)]


def run(
    program: str | pathlib.Path,
    arguments: Sequence[object] = (),
    *,
    count: int,
    devices: int,
    folder: pathlib.Path,
    timeout: float = 120,
) -> list[Ended]:
    """``start`` and ``finish``."""
    started = start(program, arguments, count=count, devices=devices, folder=folder)
    return finish(started, folder, timeout)
