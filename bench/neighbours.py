"""How much of the processor others took while a row was timed: whether its figures can be trusted.

A thread that spins for one that was put aside loses whole time slices, and some frameworks wait so
and others do not: neighbours do not strike all alike.
"""

import os
import pathlib
import time
from typing import NamedTuple

from .device import cores

# Of all cores' time; above this a row is marked.
NOISY = 0.05


class Mark(NamedTuple):
    """A moment: seconds on the clock, of all processes, and of this one with its children."""

    clock: float
    everybody: float
    own: float


def mark() -> Mark | None:
    """Now; None where the system does not tell."""
    counters = pathlib.Path("/proc/stat")
    if not counters.exists():
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal; what a hypervisor takes is others' too.
    ticks = [int(value) for value in counters.read_text().split("\n")[0].split()[1:9]]
    busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
    return Mark(time.perf_counter(), busy, sum(os.times()[:4]))


def share_of_others(start: Mark | None) -> float | None:
    """Of the cores' time since ``start``, what other processes took: 0 to 1."""
    end = mark()
    if start is None or end is None:
        return None
    others = (end.everybody - start.everybody) - (end.own - start.own)
    return min(max(others / (cores() * max(end.clock - start.clock, 1e-9)), 0.0), 1.0)
