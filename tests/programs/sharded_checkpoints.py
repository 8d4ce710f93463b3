"""Saves and restores as one of several processes; ``test_process_checkpoints.py`` reads it all.

Arguments: the folder, and "again" to go on from its checkpoints on any number of devices. It holds
``alone``, a folder of checkpoints that one process has written.
"""

import json
import pathlib
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import jlayers as jl
from jlayers import checkpoint, sharding
from jlayers.checkpoint.formats.safetensors import Safetensors

SHAPE = (8, 16)
SPECS = {"both": ("data", "model"), "rows": ("data",), "columns": (None, "model"), "whole": ()}


def values():
    """The arrays of a state, by name."""
    x = np.arange(128, dtype=np.float32).reshape(SHAPE)
    return {name: x + i for i, name in enumerate(SPECS)}


def state_of(mesh):
    """A state over a mesh, as a program makes it."""

    def place(array, *names):
        over = NamedSharding(mesh, PartitionSpec(*names))
        return jax.make_array_from_callback(array.shape, over, lambda index: array[index])

    arrays = {name: place(array, *SPECS[name]) for name, array in values().items()}
    over = NamedSharding(mesh, PartitionSpec("data"))
    keys = jax.jit(lambda: jax.random.split(jax.random.key(0), 4), out_shardings=over)()
    return {**arrays, "keys": keys, "own": jax.numpy.float32(0.5), "step": 3}


class Failing(Safetensors):
    """A format that cannot write on the second process."""

    name = "failing"

    def write(self, arrays, path, metadata=None):
        if jax.process_index() == 1:
            raise OSError(28, "No space left on device")
        super().write(arrays, path, metadata)


def equal(found, like):
    """Whether two trees have the same bits on the devices of this process."""

    def numbers(leaf):
        is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
            leaf.dtype, jax.dtypes.prng_key
        )
        if not isinstance(leaf, jax.Array):
            return [np.asarray(leaf)]
        shards = [shard.data for shard in leaf.addressable_shards]
        return [np.asarray(jax.random.key_data(s) if is_key else s) for s in shards]

    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True)
    return all(
        getattr(a, "sharding", None) == getattr(b, "sharding", None)
        and all((x == y).all() for x, y in zip(numbers(a), numbers(b), strict=True))
        for a, b in pairs
    )


def failure(do):
    """The text of an error, None without any."""
    try:
        do()
    except jl.JlayersError as error:
        return str(error)
    return None


def main(folder):
    sharding.initialize()
    mesh = jax.make_mesh((2, 2), ("data", "model"))
    state, report = state_of(mesh), {}
    with checkpoint.CheckpointManager(folder / "run", keep=2, best=1) as checkpoints:
        for step in (100, 200, 300, 400):
            checkpoints.save(step, state, metrics={"loss": 1 / step if step != 200 else 0.0})
    report["steps"], report["best"] = checkpoints.steps(), checkpoints.best_step()
    report["same mesh"] = equal(checkpoints.restore(state).tree, state)
    other = state_of(jax.make_mesh((4, 1), ("data", "model")))
    report["other mesh"] = equal(checkpoints.restore(other).tree, other)
    alone = checkpoint.CheckpointManager(folder / "alone")
    report["of one process"] = equal(alone.restore(state).tree, state)
    path = checkpoint.save_checkpoint(folder / "function", state, step=1)
    report["function"] = equal(checkpoint.read_checkpoint(path, state).tree, state)

    checkpoint.register(Failing())
    failing = checkpoint.CheckpointManager(folder / "run", format="failing")
    failing.save(500, state)
    report["full"] = failure(failing.wait)
    own = {"a": np.zeros(2 + jax.process_index())}
    report["different"] = failure(lambda: failing.save(500, own))
    where = folder / f"process-{jax.process_index()}"
    report["folders"] = failure(lambda: checkpoint.CheckpointManager(where))
    report["left"] = failing.steps()
    print(json.dumps(report))


def again(folder):
    """Restores what other processes have saved, and saves it once more."""
    sharding.initialize()
    state = state_of(jax.make_mesh((4, jax.device_count() // 4), ("data", "model")))
    with checkpoint.CheckpointManager(folder / "run", keep=2) as checkpoints:
        found = checkpoints.restore(state)
        checkpoints.save(found.step + 1, found.tree)
    print(json.dumps({"from": found.step, "same": equal(found.tree, state)}))


if __name__ == "__main__":
    from jlayers.checkpoint import writing

    writing._UNSEEN = 0.5
    (again if "again" in sys.argv else main)(pathlib.Path(sys.argv[1]))
