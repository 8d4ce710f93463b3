"""The entry points of docs/launching.md, and what JAX is called with where they set it."""

import os
import pathlib
import re
import socket
import subprocess
import sys
import types

import jax
import pytest
from tables.tiers import full

from jlayers import sharding
from jlayers.sharding import launch

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "launching.md").read_text()
FILES = dict(re.findall(r'```\w+ title="([\w.]+)"\n(.*?)```', PAGE, re.S))


@pytest.fixture
def called(monkeypatch):
    """What ``jax.distributed.initialize`` is called with in an environment."""
    calls = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *args, **options: calls.append((args, options))
    )
    monkeypatch.setattr(launch, "_await_coordinator", lambda address, timeout: None)

    def call(environ):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            sharding.initialize()
        return calls[-1][0]

    call.calls = calls
    return call


def test_slurm(called):
    """The variables that Slurm makes of the options at the top of the script."""
    script = FILES["train.sbatch"]
    of = {name: int(value) for name, value in re.findall(r"--([\w-]+)=(\d+)$", script, re.M)}
    nodes, each, gpus = of["nodes"], of["ntasks-per-node"], of["gpus-per-node"]
    assert re.search(r"^srun .*python train\.py$", script, re.M)
    environ = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": f"node[1-{nodes}]",
        "SLURM_NTASKS": str(nodes * each),
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "3",
        "SLURM_STEP_TASKS_PER_NODE": f"{each}(x{nodes})",
        "SLURM_GPUS_ON_NODE": str(gpus),
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(gpus))),
    }
    assert called(environ)[3] == tuple(range(8))


def test_jobset(called):
    """Names of pods are those of https://jobset.sigs.k8s.io: one replica, pod 0."""
    yaml = pytest.importorskip("yaml")
    jobset = yaml.safe_load(FILES["jobset.yaml"])
    name, [job] = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert job["replicas"] == 1
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"] == 4
    [container] = spec["template"]["spec"]["containers"]
    environ = {one["name"]: one["value"] for one in container["env"]}
    host = f"{name}-{job['name']}-0-0.{name}"
    for index in range(4):
        found = called(environ | {"JOB_COMPLETION_INDEX": str(index)})
        assert found[1:] == (4, index, None)
        assert found[0].split(":")[0] == host


def test_kubeflow(called):
    """What the plugin of Kubeflow Trainer sets: pkg/runtime/framework/plugins/jax/jax.go."""
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load(FILES["trainjob.yaml"])
    name, nodes = job["metadata"]["name"], job["spec"]["trainer"]["numNodes"]
    environ = {
        "JAX_NUM_PROCESSES": str(nodes),
        "JAX_PROCESS_ID": "2",
        "JAX_COORDINATOR_ADDRESS": f"{name}-node-0-0.{name}:6666",
        "JAX_COORDINATOR_PORT": "6666",
    }
    assert called(environ) == ("train-node-0-0.train:6666", 4, 2, None)


def test_ray(called, monkeypatch):
    """With an imitation of Ray, whose workers all live in this process."""

    class Handle:
        def __init__(self, actor):
            self.actor = actor

        def __getattr__(self, name):
            return types.SimpleNamespace(remote=getattr(self.actor, name))

    ray = types.ModuleType("ray")
    ray.init, ray.get = (lambda: None), (lambda found: found)
    ray.remote = lambda **options: lambda kind: types.SimpleNamespace(remote=lambda: Handle(kind()))
    ray.util = types.SimpleNamespace(get_node_ip_address=lambda: "10.0.0.9")
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "train", types.SimpleNamespace(main=lambda: None))
    exec(compile(FILES["ray_workers.py"], "ray_workers.py", "exec"), {})
    assert [args[1:3] for args, _ in called.calls] == [(8, index) for index in range(8)]
    assert len({args[0] for args, _ in called.calls}) == 1
    assert all(options["cluster_detection_method"] == "deactivate" for _, options in called.calls)


@pytest.mark.parametrize("index_name", ["JAX_PROCESS_ID", *full("JOB_COMPLETION_INDEX")])
def test_processes_join(index_name, tmp_path):
    """Two real ones run the program of the page, where the second starts first."""
    (tmp_path / "train.py").write_text(FILES["train.py"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environ = os.environ | {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_PLATFORMS": "cpu",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "train.py"],
            cwd=tmp_path,
            env=environ | {index_name: str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in (1, 0)
    ]
    try:
        (other, errors), (first, _) = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    # Gloo prints lines of its own.
    assert first.endswith("2 processes sum over 4 devices\n"), errors
    assert "processes sum" not in other
