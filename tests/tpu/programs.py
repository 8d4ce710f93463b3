"""How a function is compiled for the chips of a TPU that is not there, and what is read from it."""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bench.collectives import Traffic, collectives

PyTree = Any
# What libtpu would otherwise ask the metadata server of a Google Cloud machine.
SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no lock file: several processes may compile
}


class Program(NamedTuple):
    """A program for one chip of several; bytes are those in its memory (HBM).

    Args:
      name: of what was compiled.
      chips: how many run it together.
      arguments, outputs, temporaries: bytes. Outputs that take a donated argument's place count in
        both. Temporaries that fit into the chip's vector memory (VMEM) count nowhere.
      traffic: what one call sends, by kind of collective.
    """

    name: str
    chips: int
    arguments: int
    outputs: int
    temporaries: int
    traffic: dict[str, Traffic]


def nbytes(tree: PyTree) -> int:
    """The bytes of all leaves of a tree, on no mesh."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@functools.cache
def mesh(topology: str, **axes: int) -> Mesh:
    """All chips of a v5e of this shape, such as "2x2", along ``axes``."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    devices = topologies.get_topology_desc(f"v5e:{topology}", platform="tpu").devices
    shape, names = tuple(axes.values()), tuple(axes)
    return Mesh(np.array(devices).reshape(shape), names, axis_types=(AxisType.Auto,) * len(axes))


def placed(mesh: Mesh, tree: PyTree, specs: PyTree | PartitionSpec) -> PyTree:
    """The shapes and dtypes of a tree, each on the mesh as its ``PartitionSpec`` says."""
    if isinstance(specs, PartitionSpec):
        specs = jax.tree.map(lambda _: specs, tree)
    return jax.tree.map(
        lambda leaf, spec: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)
        ),
        tree,
        specs,
    )


def compiled(name: str, function: Callable[..., Any], *arguments: PyTree, **jit: Any) -> Program:
    """Compiles for the chips on which the arguments are.

    Args:
      arguments: trees of ``jax.ShapeDtypeStruct`` with shardings, as ``placed`` gives them.
      jit: options of ``jax.jit``.
    """
    program = jax.jit(function, **jit).lower(*arguments).compile()
    memory = program.memory_analysis()
    return Program(
        name,
        len(jax.tree.leaves(arguments)[0].sharding.device_set),
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.temp_size_in_bytes,
        collectives(program.as_text()),
    )
