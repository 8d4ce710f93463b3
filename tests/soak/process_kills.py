"""Several processes that train together, of which one is killed: a restart continues to the end.

    python -m soak.process_kills 30

Four processes of two devices train one model by ``fit``, and save every few steps. At a random
moment one of them is killed by SIGKILL: in a step, in a save, in an evaluation. The others must end
by themselves, with a message. All are started again, and so on until a training is complete; its
parameters must be those of a training that nothing was killed in, to the bit. Then the next one
begins.
"""

import argparse
import collections
import hashlib
import os
import pathlib
import random
import re
import shutil
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from oracles import processes as launched

import jlayers as jl
from jlayers import sharding, training
from jlayers.base import processes

COUNT, DEVICES, STEPS, EVERY = 4, 2, 240, 6
# Seconds that a process waits for another one, and after which one counts as hung.
PATIENCE, TIMEOUT = 20, 150.0
ROWS = np.random.default_rng(0).normal(size=(520, 64)).astype(np.float32)
LABELS = (ROWS.sum(1) > 0).astype(np.int32)


def _loss(logits: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(folder: pathlib.Path) -> None:
    """Trains to the end, from the newest checkpoint if there is one; prints what it has learnt."""
    sharding.initialize(timeout=PATIENCE)
    model = jl.serial(jl.Dense(256), jl.BatchNorm(), jax.nn.relu, jl.Dropout(0.3), jl.Dense(2))
    mesh = jax.make_mesh((COUNT, DEVICES), ("data", "model"))
    rules = sharding.tensor_parallel("model") + sharding.fsdp("data", least=0)
    step = training.train_step(model, _loss, optax.adam(1e-3), ema=0.9, mesh=mesh, rules=rules)
    state = step.start(jax.random.key(0), ROWS[:16])
    batches = training.Batches((ROWS, LABELS), 16, key=3)
    evaluate = training.make_evaluator(
        model, lambda y, t: {"loss": _loss(y, t)}, batches, mesh=mesh, rules=rules
    )

    def told(record: training.Record) -> None:
        if processes.index() == 0:
            print("step", record.step, flush=True)

    with training.CheckpointManager(folder / "checkpoints") as checkpoints:
        if processes.index() == 0:
            print("starts at", checkpoints.latest() or 0, flush=True)
        else:
            checkpoints.latest()
        fitted = training.fit(
            step,
            state,
            batches,
            steps=STEPS,
            log_every=EVERY,
            evaluate=evaluate,
            evaluate_every=5 * EVERY,
            checkpoints=checkpoints,
            checkpoint_every=EVERY,
            hooks=[told],
            progress=False,
        )
    params = multihost_utils.process_allgather(fitted.state.params, tiled=True)
    digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in jax.tree.leaves(params)))
    print("learnt", digest.hexdigest(), [float(r.metrics["loss"]) for r in fitted.records][-1])


class Kill:
    """Kills a process some time after it trains, or in a save after that."""

    def __init__(
        self, folder: pathlib.Path, output: pathlib.Path, victim: Any, pick: random.Random
    ):
        self._folder, self._output, self._victim = folder, output / "process-0.txt", victim
        self._delay, self._in_a_save = pick.uniform(0, 4), pick.random() < 0.5
        self._from: float | None = None
        self.done = self.saving = False

    def __call__(self) -> None:
        if self._from is None:
            if b"step" in self._output.read_bytes():
                self._from = time.monotonic()
            return
        if self.done or time.monotonic() < self._from + self._delay:
            return
        saving = any(self._folder.glob("checkpoints/.step_*.writing-*"))
        if saving or not self._in_a_save:
            self._victim.kill()
            self.done, self.saving = True, saving


def _learnt(ended: list[launched.Ended]) -> set[str]:
    return set(re.findall("^learnt .*$", "\n".join(one.text for one in ended), re.MULTILINE))


def run(count: int, seed: int = 0) -> collections.Counter[str]:
    """Kills so many processes; how many fell where, and how many trainings ended.

    Raises:
      AssertionError: where a process hangs or ends without a message, where a restart does not
        continue from a checkpoint that was complete, and where a training ends with other bits.
    """
    pick, found = random.Random(seed), collections.Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)

        def launch(folder: pathlib.Path, output: pathlib.Path) -> Any:
            return launched.start(__file__, [folder], count=COUNT, devices=DEVICES, folder=output)

        whole = launched.finish(launch(root / "whole", root / "o"), root / "o", TIMEOUT)
        expected = _learnt(whole)
        assert len(expected) == 1, whole
        folder, number = root / "run", 0
        while found["kills"] < count:
            number += 1
            output, victim = root / f"output-{number}", pick.randrange(COUNT)
            started = launch(folder, output)
            kill = Kill(folder, output, started[victim], pick)
            ended = launched.finish(started, output, TIMEOUT, kill)
            texts = "\n".join(
                f"process {i}: {one.status}\n{one.text}" for i, one in enumerate(ended)
            )
            origin = int(re.search(r"starts at (\d+)", texts)[1])  # type: ignore[index]
            found["restarts that continued"] += origin > 0
            complete = [int(path.name[5:]) for path in (folder / "checkpoints").glob("step_*")]
            assert max(complete, default=0) >= origin, texts
            if not kill.done or all(one.status == 0 for one in ended):
                assert _learnt(ended) == expected, texts
                found["trainings to the end"] += 1
                shutil.rmtree(folder)
                continue
            for i, one in enumerate(ended):
                # JAX itself ends the others when process 0 has gone, by SIGABRT.
                ours = one.status == 1 and "jlayers.ProcessError" in one.text
                jax_s = one.status == -6 and "the JAX distributed service" in one.text
                well = one.status == -9 if i == victim else ours or jax_s
                assert well or one.status == 0, f"process {i} of {number}\n{texts}"
                found["ended with our message"] += ours
                found["ended by JAX"] += jax_s
            found["kills"] += 1
            found["of process 0"] += victim == 0
            found["in a save"] += kill.saving
        # What is left of the last one.
        ended = launched.finish(launch(folder, root / "end"), root / "end", TIMEOUT)
        assert _learnt(ended) == expected, ended
        found["trainings to the end"] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name, number in run(options.count, options.seed).items():
        print(f"{name:<28}{number:>7}")


if __name__ == "__main__":
    if "JAX_PROCESS_ID" in os.environ:
        train(pathlib.Path(sys.argv[1]))
    else:
        main()
