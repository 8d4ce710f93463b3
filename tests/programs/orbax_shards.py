"""Writes and reads a folder of Orbax as one of several processes; its argument is the folder."""

import pathlib
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import jlayers as jl
from jlayers import interop, sharding

X = np.arange(32, dtype=np.float32).reshape(4, 8)


def main(folder):
    sharding.initialize()
    mesh = jax.make_mesh((2, 2), ("data", "model"))
    over = NamedSharding(mesh, PartitionSpec("data", "model"))
    arrays = {"a/w": jax.make_array_from_callback(X.shape, over, lambda index: X[index])}
    path = interop.write(folder / "x", arrays, format="orbax")
    found = interop.read_sharded(path, arrays)["a/w"]
    assert found.sharding == over
    for shard in found.addressable_shards:
        np.testing.assert_array_equal(shard.data, X[shard.index])
    print("read what was written")
    try:
        interop.write(folder / "x.safetensors", arrays)
    except jl.InteropError as error:
        print(error)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
