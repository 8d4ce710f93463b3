"""Training programs that tests run in processes of their own."""

import argparse
import itertools

import jax
import numpy as np
import optax

import jlayers as jl
from jlayers import training

X = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
LABELS = (X.sum(1) > 0).astype(np.int32)
MODEL = jl.serial(jl.Dense(8), jl.BatchNorm(), jax.nn.relu, jl.Dropout(0.3), jl.Dense(2))


def loss(logits, labels):
    value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return value, {"right": (logits.argmax(-1) == labels).sum(dtype=np.int32)}


def exact():
    step = training.train_step(MODEL, loss, optax.adam(1e-2), ema=0.9, clip=1.0)
    state = step.start(jax.random.key(0), X[:8])
    data = training.Batches((X, LABELS), 8, key=3)
    return {"step": step, "state": state, "data": data, "log_every": 4, "checkpoint_every": 6}


def several_at_once():
    return exact() | {"steps_per_call": 3}


_calls = itertools.count(np.random.SeedSequence().entropy % 1000)


def forgetful():
    """Its batches are other ones in each process."""
    noise = np.random.default_rng(next(_calls))
    batches = [(noise.normal(size=(8, 6)).astype(np.float32), LABELS[:8]) for _ in range(5)]
    return exact() | {"data": batches}


def wrong():
    return {"step": None}


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("folder")
    options.add_argument("--steps", type=int, default=10**9)
    given = options.parse_args()
    with training.CheckpointManager(given.folder, keep=None) as checkpoints:
        fitted = training.fit(
            **exact(),
            steps=given.steps,
            checkpoints=checkpoints,
            progress=False,
            hooks=[lambda record: print(record.step, flush=True)],
        )
    print("ended", fitted.step, fitted.stopped)
