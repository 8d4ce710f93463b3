"""Which GPUs of a node a process that Slurm has started is to use."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..base.errors import LayerError

# What Slurm limits the devices of a process by, for CUDA and for ROCm.
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def slurm_devices(environ: Mapping[str, str]) -> tuple[int, ...] | None:
    """The numbers of this process's GPUs among those that it sees; None to leave it to JAX.

    JAX takes that whose number is ``SLURM_LOCALID``, which fits where each process of a node sees
    all of its GPUs and there is one for each. It would leave GPUs idle where there are fewer
    processes, and look for some that are not there where Slurm has given each its own.

    Raises:
      LayerError: where the processes of a node cannot share its GPUs evenly.

    >>> slurm = {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    >>> slurm_devices(slurm | {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_ON_NODE": "4"})
    (0, 1, 2, 3)
    """
    texts = [environ[name] for name in _VISIBLE if environ.get(name)]
    if not texts or texts[0] == "NoDevFiles":
        return None
    visible = len(texts[0].split(","))
    on_node = environ.get("SLURM_GPUS_ON_NODE", "")
    # Fewer than the node has: Slurm has bound them to this process.
    if on_node.isdigit() and visible < int(on_node):
        return tuple(range(visible))
    processes = _processes_here(environ)
    if processes is None or processes == visible:
        return None
    if visible % processes:
        raise LayerError(
            f"{processes} processes on this node cannot share {visible} GPUs evenly",
            expected="as many GPUs for each, such as --ntasks-per-node=1",
            got=f"SLURM_STEP_TASKS_PER_NODE={environ['SLURM_STEP_TASKS_PER_NODE']}",
            hint="local_device_ids= says which GPUs a process uses",
        )
    share = visible // processes
    first = share * int(environ["SLURM_LOCALID"])
    return tuple(range(first, first + share))


def _processes_here(environ: Mapping[str, str]) -> int | None:
    """How many processes of this step run on this node: the fourth of "2(x3),1" is 1."""
    counts: list[int] = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            return None
        counts += [int(match[1])] * int(match[2] or 1)
    node = environ.get("SLURM_NODEID", "")
    return counts[int(node)] if node.isdigit() and int(node) < len(counts) else None
