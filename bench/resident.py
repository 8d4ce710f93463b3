"""The most memory that this process had resident.

Not by ``getrusage`` where it can be avoided: on Linux a child begins with what its parent had.
"""

import pathlib
import resource
import sys

_STATUS, _FORGET = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")


def peak() -> int:
    """Bytes, since they were last forgotten where that can be."""
    if not _STATUS.exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    lines = _STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def forget_peak() -> None:
    """From here on; nothing where the system cannot be told."""
    if _FORGET.exists():
        _FORGET.write_text("5")  # as proc(5) has it
