"""What does a step cost on four processes of two devices, beside one process of eight?

Both are started on this machine, with loopback between the processes (gloo), one after the other,
in turns. Each process times calls of its compiled step, which ends in a collective, so that all of
them see the same time; the medians of process 0 are compared.

    python -m bench.processes                  # all workloads
    python -m bench.processes "fsdp, Llama" --rounds 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jlayers as jl
from jlayers import sharding, training
from jlayers.sharding.batches import put_batch

from . import workers

DEVICES, PROCESSES, STEPS = 8, 4, 30
TIMEOUT = 600
# Axes of the mesh, and the rules.
Placed = tuple[tuple[int, ...], tuple[str, ...], sharding.Rules]
_ROWS = sharding.fsdp("data", least=0)
WORKLOADS: dict[str, tuple[Callable[[], jl.Layer], tuple[int, ...], Placed]] = {
    "data parallel, Llama": (
        lambda: _llama(256, 4),
        (32, 128),
        ((DEVICES,), ("data",), sharding.data_parallel("data")),
    ),
    "fsdp, Llama": (lambda: _llama(256, 4), (32, 128), ((DEVICES,), ("data",), _ROWS)),
    "tensor parallel + fsdp, Llama": (
        lambda: _llama(256, 4),
        (32, 128),
        ((4, 2), ("data", "model"), sharding.tensor_parallel("model") + _ROWS),
    ),
}


def _llama(features: int, depth: int) -> jl.Layer:
    return jl.models.Llama(
        num_embeddings=1024,
        features=features,
        hidden_dim=2 * features,
        num_heads=8,
        num_kv_heads=4,
        num_layers=depth,
    )


def loss(logits: jax.Array, ids: jax.Array) -> jax.Array:
    """Of the next id."""
    values = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], ids[:, 1:])
    return jnp.mean(values)


def measure(name: str) -> dict[str, Any]:
    """The median time of a step, in ms, and the loss after all of them."""
    make, shape, (sizes, axes, rules) = WORKLOADS[name]
    mesh = jax.make_mesh(sizes, axes)
    step = training.train_step(make(), loss, optax.adam(1e-3), mesh=mesh, rules=rules)
    ids = np.random.default_rng(0).integers(0, 1024, shape, np.int32)
    state = step.start(jax.random.key(0), ids)
    batch = put_batch(mesh, rules.batch, (ids, ids))
    run = training.compiled(step)
    times, metrics = [], {"loss": np.float32(0)}
    for _ in range(STEPS):
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(run(state, batch))
        times.append(time.perf_counter() - start)
    # The first ones compile, and warm up.
    return {"ms": 1e3 * statistics.median(times[5:]), "loss": float(metrics["loss"])}


def run(name: str, count: int) -> dict[str, Any]:
    """What process 0 of so many finds."""
    arguments = ["--child", name]
    found = workers.run("bench.processes", arguments, count=count, devices=DEVICES, timeout=TIMEOUT)
    return found[0]


def main(arguments: Sequence[str]) -> None:
    """Prints a row for each workload: medians over the rounds, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child")
    options = parser.parse_args(arguments)
    if options.child:
        sharding.initialize(timeout=120, optional=True)
        print(json.dumps(measure(options.child)))
        return
    for name in options.names or WORKLOADS:
        pairs = [(run(name, 1), run(name, PROCESSES)) for _ in range(options.rounds)]
        for one, several in pairs:
            np.testing.assert_allclose(one["loss"], several["loss"], rtol=1e-4)
        one, several = (statistics.median(pair[i]["ms"] for pair in pairs) for i in range(2))
        ratio = statistics.median(b["ms"] / a["ms"] for a, b in pairs)
        print(
            f"{name:32} 1 process {one:7.1f} ms, {PROCESSES} processes {several:7.1f} ms, "
            f"ratio {ratio:.2f}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
