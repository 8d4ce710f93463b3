"""How do computation and traffic of a training step change with the number of devices?

A simulation: XLA compiles each step for 1, 2, 4 and 8 devices that the CPU imitates, with the same
batch, and ``sharding.plan`` reads the program of one of them. Nothing is run and nothing is timed.

    python -m bench.scaling                  # all models, as the table of docs/sharding-costs.md
    python -m bench.scaling gpt2 --devices 1 8
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import optax

import jlayers as jl
from jlayers import sharding, training
from jlayers.core import dtypes

DEVICES = (1, 2, 4, 8)
# Axes of the mesh for n devices, and the rules.
Preset = tuple[Callable[[int], dict[str, int]], sharding.Rules]
PRESETS: dict[str, Preset] = {
    "data_parallel": (lambda n: {"data": n}, sharding.data_parallel("data")),
    "fsdp": (lambda n: {"data": n}, sharding.fsdp("data")),
    "tensor_parallel": (lambda n: {"model": n}, sharding.tensor_parallel("model")),
    "tensor_parallel + fsdp": (
        lambda n: {"data": 2, "model": n // 2},
        sharding.tensor_parallel("model") + sharding.fsdp("data"),
    ),
}


class Workload(NamedTuple):
    """A model, and the specs of a batch of all devices together."""

    model: jl.Layer
    batch: tuple[Any, ...]
    said: str


class Cost(NamedTuple):
    """What one device does in a step.

    Args:
      mesh: its axes.
      flops: of products and convolutions.
      collectives, received: how many there are, and the bytes that they bring, by kind.
      memory: bytes of arguments, and of everything in between.
    """

    mesh: Mapping[str, int]
    flops: float
    collectives: Mapping[str, int]
    received: Mapping[str, float]
    memory: int


class Line(NamedTuple):
    model: str
    preset: str
    devices: int
    cost: Cost
    factor: float


def ids(rows: int, steps: int) -> tuple[Any, ...]:
    return (jl.spec((rows, steps), jnp.int32), jl.spec((rows, steps), jnp.int32))


def workloads() -> dict[str, Workload]:
    image = (jl.spec((64, 224, 224, 3)), jl.spec((64,), jnp.int32))
    return {
        # 8 devices divide the 16 heads, not the 12 of "small"; and 50,304 ids, not 50,257.
        "gpt2": Workload(
            jl.models.GPT2("medium", num_embeddings=50304),
            ids(32, 512),
            "GPT-2 medium, 32 x 512 ids",
        ),
        "resnet50": Workload(jl.models.ResNet(50), image, "ResNet-50, 64 images of 224 x 224"),
        "lstm": Workload(
            jl.models.LSTMLM(features=1024), ids(64, 64), "LSTM LM of 2 x 1,024, 64 x 64 ids"
        ),
    }


def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


@contextlib.contextmanager
def operations_of_xla() -> Iterator[None]:
    """Layers leave their algorithms for one CPU aside, as they do on several devices."""
    asked = dtypes.is_sharded
    with contextlib.ExitStack() as stack:
        for module in list(sys.modules.values()):
            if getattr(module, "is_sharded", None) is asked:
                stack.enter_context(mock.patch.object(module, "is_sharded", return_value=True))
        yield


def cost(workload: Workload, axes: Mapping[str, int], rules: sharding.Rules) -> Cost:
    """What a step costs each device of a mesh, from its compiled program."""
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes))
    step = training.train_step(workload.model, loss, optax.adam(1e-3), mesh=mesh, rules=rules)
    plan = sharding.plan(step, workload.batch)
    assert plan.compiled is not None
    traffic = plan.compiled.traffic
    return Cost(axes, traffic.flops, traffic.collectives, traffic.bytes, plan.compiled.total)


def lines(
    name: str, workload: Workload, devices: Sequence[int], presets: Iterable[str]
) -> Iterator[Line]:
    """Each preset on each number of devices, after one device."""
    with operations_of_xla():
        alone = cost(workload, {"data": 1}, sharding.data_parallel("data"))
    yield Line(name, "one device", 1, alone, 1.0)
    for preset, n in itertools.product(presets, devices):
        axes_of, rules = PRESETS[preset]
        axes = axes_of(n)
        # Of a mesh of two axes each has at least two devices.
        if n > 1 and min(axes.values()) > 1:
            found = cost(workload, axes, rules)
            yield Line(name, preset, n, found, alone.flops / found.flops)


def row(line: Line) -> str:
    found = line.cost
    mesh = " x ".join(f"{name}={size}" for name, size in found.mesh.items())
    kinds = sorted(found.collectives, key=lambda kind: -found.received[kind])
    sent = "; ".join(
        f"{found.collectives[kind]:,} {kind}, {found.received[kind] / 1e6:,.0f} MB"
        for kind in kinds
    )
    total = sum(found.received.values()) / 1e6
    return (
        f"| {line.preset} | {mesh if line.devices > 1 else '1'} | {found.flops / 1e9:,.1f} | "
        f"{line.factor:.2f} | {found.memory / 1e6:,.0f} | {total:,.0f} | {sent or '-'} |"
    )


HEAD = """| preset | mesh | GFLOPs a device | factor | MB of memory | MB received | of which |
| --- | --- | ---: | ---: | ---: | ---: | --- |"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bench.scaling", description=__doc__)
    parser.add_argument("models", nargs="*", help="gpt2, resnet50, lstm; all by default")
    parser.add_argument("--devices", nargs="+", type=int, default=DEVICES)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    options = parser.parse_args(arguments)
    jax.config.update("jax_num_cpu_devices", max(options.devices))
    # The program of each device is the same; only its machine code is not made faster.
    jax.config.update("jax_disable_most_optimizations", True)
    found = workloads()
    for name in options.models or found:
        print(f"\n{found[name].said}:\n\n{HEAD}", flush=True)
        for line in lines(name, found[name], options.devices, options.presets):
            print(row(line), flush=True)


if __name__ == "__main__":
    main()
