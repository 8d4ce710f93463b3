"""Several processes: which of them this one is, from what started it to JAX's own arguments.

How to read this file: ``initialize`` is what programs call. ``_launch`` finds the arguments, from
those that are given, from variables that JAX does not read (``_SOURCES``) and, under Slurm, which
GPUs are this process's (``slurm_devices``). Everything else JAX detects; ``_unknown`` is the error
where it does not. ``_await_coordinator`` and ``_reminder`` are there because JAX ends a process
that has waited too long from C++, without an error in Python.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax

from ..base import arguments, processes
from ..base.errors import LayerError, public_api
from ..base.specs import format_short
from .slurm import slurm_devices

logger = logging.getLogger(__name__)

# Those that jax.distributed.initialize wants before it takes itself for started by Slurm.
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
# Only said in errors: JAX detects TPUs by more than these.
_TPU = ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES")
_HOST_AND_PORT = re.compile(r"([^\s/:\[\]]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})")
_PAUSE = 1.0


class _Source(NamedTuple):
    """Variables that say all three arguments; of several names for one the first that is set."""

    name: str
    address: str
    port: str | None
    number: str
    process: tuple[str, ...]


_SOURCES = (
    # Kubeflow Trainer's runtime for JAX sets the first three. The last one is set by Kubernetes in
    # each pod of an indexed Job, so also in those of a JobSet. JAX itself reads the first alone.
    _Source(
        "JAX_* variables",
        "JAX_COORDINATOR_ADDRESS",
        None,
        "JAX_NUM_PROCESSES",
        ("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX"),
    ),
    # JAXJob of Kubeflow's training operator, before Kubeflow Trainer.
    _Source(
        "Kubeflow's JAXJob", "COORDINATOR_ADDRESS", "COORDINATOR_PORT", "NUM_PROCESSES",
        ("PROCESS_ID",),
    ),
)  # fmt: skip


class Launch(NamedTuple):
    """How this process has joined the others; what is None was found by JAX.

    Attributes:
      by: what said so: "arguments", the name of a launcher, "JAX", "earlier" where the process had
        joined before, or "one process".
      coordinator_address: host and port of process 0.
      num_processes: of all.
      process_id: of this one.
      local_device_ids: the GPUs of this process, by their numbers among those that it sees.
    """

    by: str
    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: tuple[int, ...] | None = None


@public_api
def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    local_device_ids: Sequence[int] | None = None,
    timeout: int = 300,
    optional: bool = False,
) -> Launch:
    """``jax.distributed.initialize``, also where JAX does not find its arguments by itself.

    To be called before anything of JAX that needs a device. JAX detects Slurm, Open MPI, TPUs of
    Google Cloud, and Kubernetes where it may ask the cluster. This adds

    * the variables of Kubeflow's runtimes for JAX, and ``JAX_COORDINATOR_ADDRESS``,
      ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` (or ``JOB_COMPLETION_INDEX``) of your own;
    * under Slurm, all GPUs of a process that is alone on its node, or its share of them: JAX by
      itself takes one GPU for each process, and leaves the others idle;
    * arguments that are checked, an error that names the variables, and one on processes that do
      not reach process 0 in time. Arguments that are complete keep JAX from looking further.

    The arguments must be the same on all processes, but for ``process_id`` and
    ``local_device_ids``. Called once more it does nothing. Process 0 alone logs what it waits for,
    on the logger ``jlayers.sharding.launch``.

    Args:
      coordinator_address: ``"host:port"`` of process 0, as all others reach it; any free port.
      num_processes: how many there are.
      process_id: which of them this one is, from 0.
      local_device_ids: the GPUs of this process, by their numbers among those that it sees.
      timeout: seconds to wait for the other processes, here, where JAX ends a process that has
        waited longer, and wherever they meet later: at the start and the end of ``fit``, at
        checkpoints. There it is a ``ProcessError``.
      optional: True to run as one process where nothing says that there are several.

    Returns:
      A ``Launch``: what was found.

    Raises:
      LayerError: where the environment does not say who the other processes are, or says it in
        part; where process 0 cannot be reached; for invalid arguments and variables.
      RuntimeError: JAX's own, where something of JAX has already asked for the devices.

    >>> import jlayers as jl
    >>> jl.sharding.initialize("localhost:1234", num_processes=2, process_id=2)
    Traceback (most recent call last):
    ...
    jlayers.LayerError: initialize: process_id must be less than num_processes
      expected: 0 to 1
      got:      2, from arguments
    """
    timeout = arguments.positive("timeout", timeout)
    optional = arguments.flag("optional", optional)
    given = _given(coordinator_address, num_processes, process_id, local_device_ids)
    if jax.distributed.is_initialized():
        return Launch("earlier")
    found = _launch(os.environ, given)
    complete = None not in (found.coordinator_address, found.num_processes, found.process_id)
    _log(found, timeout)
    if complete and found.process_id and found.coordinator_address:
        _await_coordinator(found.coordinator_address, timeout)
    processes.set_patience(timeout)
    try:
        with _reminder(found, timeout):
            jax.distributed.initialize(
                found.coordinator_address,
                found.num_processes if complete else given.num_processes,
                found.process_id if complete else given.process_id,
                found.local_device_ids,
                # With all that is needed JAX would still look for GPUs: under Ray in an allocation
                # of Slurm it would take one by the number of another process.
                cluster_detection_method="deactivate" if complete and found.by != "Slurm" else None,
                initialization_timeout=timeout,
            )
    # JAX says so where it detects nothing; what it says is in terms of its arguments alone.
    except ValueError as error:
        if complete:
            raise
        seen = _seen(os.environ, given)
        if not optional or seen:
            raise _unknown(seen) from error
        return Launch("one process", None, 1, 0)
    processes.end_at_once()
    return found


def _given(address: object, count: object, index: object, devices: Sequence[int] | None) -> Launch:
    return _checked(
        Launch(
            "arguments",
            None if address is None else _address(address, "the argument coordinator_address"),
            None if count is None else arguments.positive("num_processes", count),
            None if index is None else arguments.integer("process_id", index, 0),
            None if devices is None else _devices(devices),
        )
    )


def _launch(environ: Mapping[str, str], given: Launch) -> Launch:
    """The arguments of JAX; None for what it has to find by itself."""
    if None not in given[1:4]:
        return given
    for source in _SOURCES:
        found = _checked(_completed(environ, given, source))
        if None not in found[1:4]:
            return found
    if all(name in environ for name in _SLURM):
        count, index = given.num_processes, given.process_id
        count = _number(environ, "SLURM_NTASKS", 1) if count is None else count
        index = _number(environ, "SLURM_PROCID") if index is None else index
        devices = given.local_device_ids or slurm_devices(environ)
        return _checked(Launch("Slurm", given.coordinator_address, count, index, devices))
    return given._replace(by="JAX")


def _completed(environ: Mapping[str, str], given: Launch, source: _Source) -> Launch:
    """``given``, and what the variables of one source add to it."""
    address = given.coordinator_address
    if address is None and source.address in environ:
        address = environ[source.address]
        if source.port is not None and source.port in environ:
            address += f":{environ[source.port]}"
        address = _address(address, source.address)
    count, index = given.num_processes, given.process_id
    if count is None and source.number in environ:
        count = _number(environ, source.number, 1)
    if index is None:
        named = next((name for name in source.process if name in environ), None)
        index = None if named is None else _number(environ, named)
    return Launch(source.name, address, count, index, given.local_device_ids)


def _checked(found: Launch) -> Launch:
    count, index = found.num_processes, found.process_id
    if count is not None and index is not None and index >= count:
        raise LayerError(
            "process_id must be less than num_processes",
            expected=f"0 to {count - 1}",
            got=f"{index}, from {found.by}",
        )
    return found


def _address(value: object, name: str) -> str:
    match = _HOST_AND_PORT.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 < int(match[2]) < 2**16:
        raise LayerError(
            f"{name} must be the host and the port of process 0",
            expected='"10.0.0.1:1234", a port from 1 to 65535',
            got=format_short(value),
        )
    return match[0]


def _devices(value: object) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise LayerError(
            "local_device_ids must be the numbers of GPUs",
            expected="[0, 1]",
            got=format_short(value),
        )
    return tuple(arguments.integer("local_device_ids", one, 0) for one in value)


def _number(environ: Mapping[str, str], name: str, least: int = 0) -> int:
    text = environ[name]
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise LayerError(
            f"the variable {name} must be a number",
            expected=f"an integer of at least {least}",
            got=repr(text),
        )
    return int(text)


def _seen(environ: Mapping[str, str], given: Launch) -> list[str]:
    """What of each launcher is there and what is missing, for those of which something is."""
    named = ("coordinator_address", "num_processes", "process_id")
    has = [name for name in named if getattr(given, name) is not None]
    lines = [f"the arguments {', '.join(has)}"] if has else []
    groups = {
        **{s.name: ((s.address,), (s.number,), s.process) for s in _SOURCES},
        "Slurm": tuple((name,) for name in _SLURM),
        "TPUs": tuple((name,) for name in _TPU),
    }
    for name, group in groups.items():
        found = [one for names in group for one in names if one in environ]
        missing = [" or ".join(names) for names in group if not any(n in environ for n in names)]
        if found:
            without = f", without {', '.join(missing)}" if missing else ""
            lines.append(f"{name}: {', '.join(found)}{without}")
    return lines


def _unknown(seen: list[str]) -> LayerError:
    text = "\n".join(seen)
    hint = "optional=True to run as one process where nothing has started several"
    if "SLURM_JOB_ID" in text:
        hint = "start the program with srun: sbatch by itself runs it once"
    elif "TPUs: " in text:
        hint = "JAX detects TPUs where pip install 'jax[tpu]' has been run"
    elif seen:
        hint = "set what is missing, or pass it as an argument"
    return LayerError(
        "nothing says how many processes there are and which of them this one is",
        expected="coordinator_address, num_processes and process_id, or a launcher's variables",
        got="; ".join(seen) or "no variables of Slurm, Kubeflow, JobSet or TPUs",
        hint=hint,
    )


def _log(found: Launch, timeout: int) -> None:
    if found.process_id == 0:
        where = f" at {found.coordinator_address}" if found.coordinator_address else ""
        logger.info(
            "process 0 of %s, by %s, waits%s for the others, %d s at most",
            found.num_processes, found.by, where, timeout,
        )  # fmt: skip


def _await_coordinator(address: str, timeout: int) -> None:
    """Waits until process 0 listens, since an error here says more than JAX's end of the process.

    Raises:
      LayerError: after ``timeout`` seconds.
    """
    host, _, port = address.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        left = end - time.monotonic()
        try:
            with socket.create_connection((host.strip("[]"), int(port)), max(left, _PAUSE)):
                return
        except OSError as error:
            if left <= 0:
                raise LayerError(
                    f"process 0 at {address} could not be reached in {timeout} s",
                    got=str(error),
                    hint="is it running, and does this machine know its name and reach its port?",
                ) from error
        time.sleep(min(_PAUSE, max(left, 0)))


@contextlib.contextmanager
def _reminder(found: Launch, timeout: int) -> Iterator[None]:
    """Warns shortly before JAX gives up: then there is a stack trace of C++ and nothing else."""
    count = f" {found.num_processes}" if found.num_processes else ""
    text = "not all%s processes have joined after %d s; JAX ends this one after %d s"
    warning = functools.partial(logger.warning, text, count, round(0.9 * timeout), timeout)
    timer = threading.Timer(0.9 * timeout, warning)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
