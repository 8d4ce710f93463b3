"""How much of the processor other processes took while a row was timed.

Other processes do not slow every framework alike: a thread that spins while it waits for one that
was descheduled loses whole time slices, and only some frameworks wait like that.
"""

import os
import pathlib
import time
from typing import NamedTuple

from .device import cores

# Share of all cores' time above which a row is marked as noisy.
NOISY = 0.05


class Mark(NamedTuple):
    """A moment: seconds on the clock, of all processes, and of this one with its children."""

    clock: float
    all: float
    own: float


def mark() -> Mark | None:
    """The current moment; None where the system has no such counters."""
    counters = pathlib.Path("/proc/stat")
    if not counters.exists():
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal; what a hypervisor takes is others' too.
    ticks = [int(value) for value in counters.read_text().split("\n")[0].split()[1:9]]
    busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
    return Mark(time.perf_counter(), busy, sum(os.times()[:4]))


def share_of_others(start: Mark | None) -> float | None:
    """The share of the cores' time since ``start`` that other processes took, 0 to 1."""
    end = mark()
    if start is None or end is None:
        return None
    others = (end.all - start.all) - (end.own - start.own)
    return min(max(others / (cores() * max(end.clock - start.clock, 1e-9)), 0.0), 1.0)
