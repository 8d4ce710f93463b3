"""A module of ``bench`` as one or several processes on this machine, which meet over loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def run(
    module: str, arguments: Sequence[object], *, count: int, devices: int, timeout: float
) -> list[dict[str, Any]]:
    """The last dict that each process prints, as a line of JSON.

    Args:
      module: its name; it calls ``sharding.initialize(optional=True)``.
      arguments: of its command line.
      count, devices: of processes, and of devices of all of them together.
      timeout: seconds, after which they are killed.

    Raises:
      RuntimeError: with the output of a process that failed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices // count),
    }
    if count > 1:
        environment |= {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(count),
        }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            env=environment | ({"JAX_PROCESS_ID": str(index)} if count > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]
    try:
        texts = [process.communicate(timeout=timeout)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, text in zip(started, texts, strict=True):
        if process.returncode:
            raise RuntimeError(text)
    # The last one: what JAX says at the end of a process may follow it.
    lines = [[line for line in text.splitlines() if line.startswith("{")] for text in texts]
    return [json.loads(each[-1]) for each in lines]
