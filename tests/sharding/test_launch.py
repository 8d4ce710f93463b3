"""Joining other processes: the arguments that JAX gets from variables, and what is refused."""

import logging
import re
import socket

import jax
import pytest
from error_text import each, read

import jlayers as jl
from jlayers import sharding
from jlayers.sharding import launch

JAX = {
    "JAX_COORDINATOR_ADDRESS": "job-node-0-0.job:6666",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "0",
}
INDEXED = {
    "JAX_COORDINATOR_ADDRESS": "job-workers-0-0.job:6666",
    "JAX_NUM_PROCESSES": "4",
    "JOB_COMPLETION_INDEX": "0",
}
JAXJOB = {
    "COORDINATOR_ADDRESS": "job-worker-0",
    "COORDINATOR_PORT": "1234",
    "NUM_PROCESSES": "3",
    "PROCESS_ID": "0",
}
SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}
GPUS = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_ON_NODE": "4"}


@pytest.fixture
def calls(monkeypatch):
    """The calls that reach ``jax.distributed.initialize``, in an environment without launchers."""
    found = []
    for name in [*JAX, *INDEXED, *JAXJOB, *SLURM, *GPUS, "TPU_WORKER_ID"]:
        monkeypatch.delenv(name, raising=False)

    def initialize(*args, **options):
        found.append((args, options))
        # What JAX does where it detects nothing.
        if args[0] is None and "SLURM_JOB_ID" not in launch.os.environ:
            raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(launch, "_await_coordinator", lambda address, timeout: None)
    return found


def called(calls, monkeypatch, environ, *args, **options):
    """What JAX is called with: address, processes, this one, GPUs, and how it detects more."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    sharding.initialize(*args, **options)
    [(found, others)] = calls
    assert others.pop("initialization_timeout") == options.get("timeout", 300)
    return (*found, others.pop("cluster_detection_method"))


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (JAX, ("job-node-0-0.job:6666", 4, 0, None, "deactivate")),
        (JAX | {"JAX_PROCESS_ID": "3"}, ("job-node-0-0.job:6666", 4, 3, None, "deactivate")),
        (INDEXED, ("job-workers-0-0.job:6666", 4, 0, None, "deactivate")),
        (JAXJOB, ("job-worker-0:1234", 3, 0, None, "deactivate")),
        # JAX parses what Slurm sets.
        (SLURM, (None, None, None, None, None)),
        (SLURM | GPUS, (None, None, None, (0, 1, 2, 3), None)),
        # Only this variable of its own does JAX read, under Slurm too.
        (SLURM | {"JAX_COORDINATOR_ADDRESS": "node1:1"}, (None, None, None, None, None)),
        (SLURM | JAX, ("job-node-0-0.job:6666", 4, 0, None, "deactivate")),
    ],
    ids=["kubeflow", "another", "jobset", "jaxjob", "slurm", "gpus", "address", "both"],
)
def test_variables_become_arguments(calls, monkeypatch, environ, expected):
    assert called(calls, monkeypatch, environ) == expected


def test_arguments_come_first(calls, monkeypatch):
    """As under Ray, whose workers may have been started by Slurm."""
    found = called(calls, monkeypatch, SLURM | GPUS | JAX, "10.0.0.1:99", 8, 7, timeout=20)
    assert found == ("10.0.0.1:99", 8, 7, None, "deactivate")


def test_arguments_complete_variables(calls, monkeypatch):
    environ = {"JOB_COMPLETION_INDEX": "2"}
    found = called(calls, monkeypatch, environ, "[::1]:99", 3, local_device_ids=[0])
    assert found == ("[::1]:99", 3, 2, (0,), "deactivate")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, None),
        (GPUS, (0, 1, 2, 3)),
        # One for each: JAX's own choice.
        (GPUS | {"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_LOCALID": "3"}, None),
        # --gpus-per-task=2 binds: each sees its own alone.
        (GPUS | {"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, (0, 1)),
        (GPUS | {"CUDA_VISIBLE_DEVICES": "3", "SLURM_STEP_TASKS_PER_NODE": "4"}, (0,)),
        # All are seen by both: the second takes the second half.
        (GPUS | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1"}, (2, 3)),
        (GPUS | {"SLURM_STEP_TASKS_PER_NODE": "4,2", "SLURM_NODEID": "1"}, (0, 1)),
        ({"ROCR_VISIBLE_DEVICES": "0,1"}, (0, 1)),
        (GPUS | {"SLURM_STEP_TASKS_PER_NODE": "many"}, None),
    ],
    ids=["cpu", "none", "node", "each", "bound", "one", "half", "second", "rocm", "unknown"],
)
def test_gpus_under_slurm(environ, expected):
    assert launch.slurm_devices(SLURM | environ) == expected


def test_joins_once(calls, monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert sharding.initialize("localhost:1", 2, 0) == launch.Launch("earlier")
    assert not calls


def test_one_process_where_nothing_says_more(calls):
    assert sharding.initialize(optional=True) == launch.Launch("one process", None, 1, 0)
    assert len(calls) == 1  # JAX was asked: it knows TPUs by what no variable says.


@pytest.mark.parametrize("index", [0, 1])
def test_process_0_alone_logs(calls, caplog, index):
    with caplog.at_level(logging.INFO, "jlayers"):
        sharding.initialize("10.0.0.1:99", 2, index, timeout=20)
    expected = "process 0 of 2, by arguments, waits at 10.0.0.1:99 for the others, 20 s at most"
    assert caplog.messages == ([] if index else [expected])


def test_warns_before_jax_gives_up(monkeypatch, caplog):
    class Timer:
        def __init__(self, seconds, warn):
            assert seconds == 18
            self.start, self.cancel = warn, lambda: None

    monkeypatch.setattr(launch.threading, "Timer", Timer)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: None)
    sharding.initialize("10.0.0.1:99", 2, 0, timeout=20)
    expected = "not all 2 processes have joined after 18 s; JAX ends this one after 20 s"
    assert caplog.messages == [expected]


def test_a_coordinator_that_comes_late_is_waited_for(monkeypatch):
    """And one that does not come is an error of Python."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(launch, "_PAUSE", 0.05)
        with pytest.raises(ValueError, match=r"at 127\.0\.0\.1:\d+ could not be reached in 0.2 s"):
            launch._await_coordinator(address, 0.2)
        monkeypatch.setattr(launch.time, "sleep", lambda seconds: server.listen())
        launch._await_coordinator(address, 5)


def wrong(environ, *args, **options):
    """A call of initialize in an environment."""

    def call():
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            sharding.initialize(*args, **options)

    return call


def without(environ, *names):
    return {name: value for name, value in environ.items() if name not in names}


NOTHING = "initialize: nothing says how many processes there are and which of them this one is"


@each(
    [
        (
            wrong({}),
            NOTHING,
            "expected: coordinator_address, num_processes and process_id, or a launcher",
            "got:      no variables of Slurm, Kubeflow, JobSet or TPUs",
            "hint:     optional=True to run as one process where nothing has started several",
        ),
        (
            wrong(without(JAX, "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"), optional=True),
            NOTHING,
            "got:      JAX_* variables: JAX_COORDINATOR_ADDRESS, without JAX_NUM_PROCESSES, "
            "JAX_PROCESS_ID or JOB_COMPLETION_INDEX",
            "hint:     set what is missing, or pass it as an argument",
        ),
        (
            wrong(without(JAXJOB, "COORDINATOR_ADDRESS"), process_id=1),
            NOTHING,
            "got:      the arguments process_id; Kubeflow's JAXJob: NUM_PROCESSES, PROCESS_ID, "
            "without COORDINATOR_ADDRESS",
        ),
        (
            wrong({"TPU_WORKER_ID": "1"}),
            NOTHING,
            "got:      TPUs: TPU_WORKER_ID, without TPU_WORKER_HOSTNAMES",
            "hint:     JAX detects TPUs where pip install 'jax[tpu]' has been run",
        ),
        (
            wrong(JAX | {"JAX_NUM_PROCESSES": "two"}),
            "initialize: the variable JAX_NUM_PROCESSES must be a number",
            "expected: an integer of at least 1",
            "got:      'two'",
        ),
        (
            wrong(JAX | {"JAX_NUM_PROCESSES": "0"}),
            "initialize: the variable JAX_NUM_PROCESSES must be a number",
        ),
        (
            wrong(INDEXED | {"JOB_COMPLETION_INDEX": "4"}),
            "initialize: process_id must be less than num_processes",
            "expected: 0 to 3",
            "got:      4, from JAX_* variables",
        ),
        (
            wrong(SLURM | {"SLURM_PROCID": "2"}),
            "initialize: process_id must be less than num_processes",
            "got:      2, from Slurm",
        ),
        (
            wrong(without(JAXJOB, "COORDINATOR_PORT")),
            "initialize: COORDINATOR_ADDRESS must be the host and the port of process 0",
            'expected: "10.0.0.1:1234", a port from 1 to 65535',
            "got:      'job-worker-0'",
        ),
        (
            wrong({}, "http://10.0.0.1:1234", 2, 0),
            "initialize: the argument coordinator_address must be the host and the port of*",
        ),
        (
            wrong({}, "10.0.0.1:70000", 2, 0),
            "initialize: the argument coordinator_address must be the host and the port of*",
        ),
        (wrong({}, num_processes=0), "initialize: num_processes must be a positive int, got 0"),
        (wrong({}, process_id=-1), "initialize: process_id must be an int of at least 0, got -1"),
        (wrong({}, timeout=0.5), "initialize: timeout must be a positive int, got 0.5"),
        (wrong({}, optional=1), "initialize: optional must be True or False, got 1"),
        (
            wrong({}, local_device_ids="01"),
            "initialize: local_device_ids must be the numbers of GPUs",
            "expected: [0, 1]",
            "got:      '01'",
        ),
        (
            wrong(SLURM | GPUS | {"SLURM_STEP_TASKS_PER_NODE": "8"}),
            "initialize: 8 processes on this node cannot share 4 GPUs evenly",
            "expected: as many GPUs for each, such as --ntasks-per-node=1",
            "got:      SLURM_STEP_TASKS_PER_NODE=8",
            "hint:     local_device_ids= says which GPUs a process uses",
        ),
    ]
)
def test_what_is_refused(case, calls):
    read(case)


def test_a_job_without_srun(calls, monkeypatch):
    """JAX does not take a script of sbatch for a step, and detects nothing."""

    def initialize(*args, **options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    for name, value in without(SLURM, "SLURM_STEP_NODELIST").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(jl.LayerError, match="nothing says") as caught:
        sharding.initialize()
    text = str(caught.value)
    assert re.search("got: +Slurm: SLURM_JOB_ID, .*, without SLURM_STEP_NODELIST", text), text
    assert "hint:     start the program with srun: sbatch by itself runs it once" in text
