"""A training of several processes on one machine, as on many: each has its devices and its rows.

`processes.py start` starts four processes of two devices, and shows what they print. End one of
them in the middle (`kill -9` and its number) and start again: they go on from the newest
checkpoint. `processes.py train` is what each of them runs, and all that a cluster needs: see
docs/launching.md for what starts it there.
"""

import argparse
import os
import pathlib
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import optax

import jlayers as jl
from jlayers import sharding, training

RUNS = pathlib.Path("runs/processes")


def loss(logits, ids):
    values = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], ids[:, 1:])
    return values.mean()


def train(steps):
    sharding.initialize(optional=True)  # before anything of JAX that needs a device
    model = jl.models.Llama(
        num_embeddings=256, features=64, hidden_dim=128, num_heads=4, num_kv_heads=2, num_layers=2
    )
    # Python's own sources: the same file on each process, which reads its own rows of it.
    text = pathlib.Path(argparse.__file__).read_bytes()
    rows = np.frombuffer(text[: len(text) // 65 * 65], np.uint8).reshape(-1, 65).astype(np.int32)
    batches = training.Batches((rows, rows), 32, key=0)

    mesh = jax.make_mesh((jax.device_count() // 2, 2), ("data", "model"))
    rules = sharding.tensor_parallel("model") + sharding.fsdp("data", least=0)
    step = training.train_step(model, loss, optax.adamw(3e-3), clip=1.0, mesh=mesh, rules=rules)
    state = step.start(jax.random.key(0), rows[:32])
    if jax.process_index() == 0:
        print(f"{jax.process_count()} processes, {jax.device_count()} devices")
    with training.CheckpointManager(RUNS / "checkpoints") as checkpoints:
        fitted = training.fit(
            step,
            state,
            batches,
            steps=steps,
            log_every=20,
            checkpoints=checkpoints,
            checkpoint_every=40,
            hooks=[training.json_lines(RUNS / "log.jsonl")],
        )
    largest = max(jax.tree.leaves(fitted.state.params), key=lambda array: array.size)
    parts = [shard.data.shape for shard in largest.addressable_shards]
    print(f"process {jax.process_index()} holds {parts} of the largest array, {largest.shape}")


def start(count, devices, steps):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-u", __file__, "train", "--steps", str(steps)]
    started = [
        subprocess.Popen(
            command,
            env=environment | {"JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]

    def show(process, index):
        for line in process.stdout:
            # What gloo says of its connections.
            if not line.startswith("[Gloo]"):
                print(f"[{index} {process.pid}] {line}", end="", flush=True)

    shown = [
        threading.Thread(target=show, args=(process, index))
        for index, process in enumerate(started)
    ]
    for thread in shown:
        thread.start()
    for thread in shown:
        thread.join()
    sys.exit(max(process.wait() != 0 for process in started))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["start", "train"])
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--devices", type=int, default=2, help="of each process")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    if options.what == "train":
        train(options.steps)
    else:
        start(options.processes, options.devices, options.steps)
