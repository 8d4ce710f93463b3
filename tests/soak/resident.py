"""The most memory that this process had resident.

Not from ``getrusage`` where that can be avoided: on Linux a child starts with its parent's peak.
"""

import pathlib
import resource
import sys

_STATUS, _RESET = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")


def peak() -> int:
    """Bytes, since the last ``reset_peak`` where the system has one."""
    if not _STATUS.exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    lines = _STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def reset_peak() -> None:
    """Restarts the measurement; does nothing where the system cannot."""
    if _RESET.exists():
        _RESET.write_text("5")  # as proc(5) has it
