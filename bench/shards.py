"""What does it cost that several processes write one checkpoint?

    python -m bench.shards                   # 400 MB, 5 saves each
    python -m bench.shards --megabytes 1000 --folder /scratch

The same state over four devices of the CPU: saved by one process that has all of them, and by two
that have two each and meet by ``jax.distributed`` on this machine; into the same folder, each twice
and in turns. The time is that of ``save_checkpoint``, until everything is on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import statistics
import tempfile
import time
from typing import Any

from . import workers

MB = 1_000_000
DEVICES = 4
# As in a model: few large arrays and many small ones.
LARGE, SMALL = 19, 100
TIMEOUT = 170


def save(megabytes: int, saves: int, folder: pathlib.Path) -> dict[str, Any]:
    """Saves as one of the processes: seconds of each, and the bytes that this one has written."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from jlayers import checkpoint, sharding
    from jlayers.base import processes

    sharding.initialize(optional=True)
    mesh = jax.make_mesh((2, 2), ("data", "model"))
    over = NamedSharding(mesh, PartitionSpec("data", "model"))
    sizes = [megabytes * MB // (LARGE + 1)] * LARGE + [
        megabytes * MB // (LARGE + 1) // SMALL
    ] * SMALL

    def made(number: int, size: int) -> jax.Array:
        rng, shape = np.random.default_rng(number), (size // 4 // 64 // 2 * 2, 64)
        x = rng.integers(0, 2**31, shape, np.int32)
        return jax.make_array_from_callback(shape, over, lambda index: x[index])

    tree = {f"layer_{i}": made(i, size) for i, size in enumerate(sizes)}
    seconds, index = [], processes.index()
    for turn in range(saves + 1):
        if index == 0:
            shutil.rmtree(folder / "step_00000001", ignore_errors=True)
            os.sync()
        processes.exchange("ready", turn)
        start = time.perf_counter()
        path = checkpoint.save_checkpoint(folder, tree, step=1)
        if turn:
            seconds.append(time.perf_counter() - start)
    names = sorted(path.glob("arrays*"))
    own = sum(shard.data.nbytes for x in tree.values() for shard in x.addressable_shards)
    return {"seconds": seconds, "written": names[index].stat().st_size, "own shards": own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--folder", help="on the disk in question; a temporary one")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(save(options.megabytes, options.saves, pathlib.Path(options.folder))))
        return
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for count in (1, 2, 2, 1):
            arguments = ["--megabytes", options.megabytes, "--saves", options.saves]
            found = workers.run(
                "bench.shards",
                ["--worker", *arguments, "--folder", folder],
                count=count,
                devices=DEVICES,
                timeout=TIMEOUT,
            )
            # The slowest process is the time of all.
            seconds[count] += map(max, zip(*(one["seconds"] for one in found), strict=True))
            for index, one in enumerate(found):
                print(
                    f"{count} process(es), process {index}: {one['written']:,} bytes written, "
                    f"{one['own shards']:,} of its own shards; "
                    + " ".join(f"{value:.2f}" for value in one["seconds"])
                )
    medians = {count: statistics.median(values) for count, values in seconds.items()}
    print(
        f"{options.megabytes} MB by 1 process {medians[1]:.2f} s, by 2 processes "
        f"{medians[2]:.2f} s: {medians[2] / medians[1]:.2f}x"
    )


if __name__ == "__main__":
    main()
