"""What processes do together; prints what they find as a line of JSON for each part.

JAX_COORDINATOR_ADDRESS=... python several.py PART [PART ...]
"""

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

import jlayers as jl
from jlayers import decoding, sharding, training
from jlayers.base import processes
from jlayers.training.loop import several

ROWS = np.random.default_rng(0).normal(size=(96, 8)).astype(np.float32)
TARGETS = np.sin(ROWS.sum(1, keepdims=True))
MODEL = jl.serial(jl.Dense(32, bias=False), jl.BatchNorm(), jnp.tanh, jl.Dropout(0.2), jl.Dense(1))


def error(y: Any, target: Any) -> Any:
    return jnp.mean((y - target) ** 2)


def make_step(model: Any = MODEL, loss: Any = error, rate: float = 1e-2, **options: Any) -> Any:
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    rules = sharding.fsdp("data", least=0)
    return training.train_step(model, loss, optax.adam(rate), mesh=mesh, rules=rules, **options)


def numbers(tree: Any) -> dict[str, float]:
    """A weighted sum of each array, the same on every process."""
    whole = multihost_utils.process_allgather(tree, tiled=True)
    return {
        name: float(np.ravel(leaf) @ np.cos(np.arange(leaf.size)))
        for name, leaf in jl.flatten(whole).items()
    }


def text_of(run: Callable[[], object]) -> str:
    """The text of the error that is raised."""
    try:
        run()
    except jl.JlayersError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def train() -> Any:
    """A sharded run: records, evaluation, and the state at its end."""
    step = make_step(clip=1.0, ema=0.9, accumulate=2)
    state = step.start(jax.random.key(0), ROWS[:16])
    batches = training.Batches((ROWS, TARGETS), 16, key=3)
    evaluate = training.make_evaluator(
        MODEL, lambda y, t: {"error": error(y, t)}, batches, mesh=step.mesh, rules=step.rules
    )
    fitted = training.fit(step, state, batches, steps=12, log_every=4, evaluate=evaluate)
    records = [[record.step, record.metrics] for record in fitted.records]
    kernel = fitted.state.params["dense"]["kernel"]
    return {
        "records": records,
        "params": numbers(fitted.state.params),
        "shard": kernel.addressable_shards[0].data.shape,
    }


def stacked() -> Any:
    """Several steps in a call, and an iterable that gives whole batches everywhere."""
    step = make_step()
    state = step.start(jax.random.key(0), ROWS[:16])
    whole = training.Batches((ROWS, TARGETS), 16, key=3)
    one = training.fit(step, state, whole, steps=6, steps_per_call=3, progress=False)
    two = training.fit(step, state, list(whole), steps=6, progress=False)
    return {"stacks": numbers(one.state.params), "list": numbers(two.state.params)}


def refused() -> Any:
    """Calls that differ among the processes, or cannot be divided among them."""
    number = processes.index()
    step = make_step()
    state = step.start(jax.random.key(0), ROWS[:16])
    batches = training.Batches((ROWS, TARGETS), 16, key=3)

    def fit(step: Any = step, data: Any = batches, **options: Any) -> Any:
        return lambda: training.fit(step, state, data, **{"steps": 2, "progress": False} | options)

    other = jl.serial(
        jl.Dense(32, bias=False), jl.BatchNorm(), jnp.tanh, jl.Dropout(0.1 * number), jl.Dense(1)
    )
    alone = training.train_step(MODEL, error, optax.adam(1e-2))
    read, _ = next(several.own_rows(batches, step).read())
    given = MODEL.init(jax.random.key(number), ROWS[:16])[0]
    rows = ROWS[: 48 + 16 * number]
    evaluate = training.make_evaluator(
        MODEL,
        lambda y: {"mean": y.mean()},
        training.Batches((rows,), 16),
        mesh=step.mesh,
        rules=step.rules,
    )
    half = training.train_step(
        MODEL,
        error,
        optax.adam(1e-2),
        mesh=jax.sharding.Mesh(jax.devices()[:2], ("data",)),
        rules=step.rules,
    )

    def own(state: Any, batch: Any) -> Any:
        return {"w": state["w"] * 0.9}, {"loss": state["w"].sum()}

    return {
        "read": [len(leaf) for leaf in read],
        "model": text_of(fit(make_step(other))),
        "data": text_of(fit(data=training.Batches((ROWS + number, TARGETS), 16, key=3))),
        "order": text_of(fit(data=training.Batches((ROWS, TARGETS), 16, key=number))),
        "list": text_of(fit(data=[(ROWS[number : 16 + number], TARGETS[:16])])),
        "steps": text_of(fit(steps=2 + number)),
        "rate": text_of(fit(make_step(rate=1e-2 * (1 + number)))),
        "loss": text_of(fit(make_step(loss=lambda y, t: error(y, t) * (1 + number)))),
        "evaluation": text_of(fit(evaluate=evaluate, evaluate_every=1)),
        "local": text_of(lambda: training.fit(own, {"w": jnp.ones(3)}, batches, steps=2)),
        "mesh": text_of(lambda: half.start(jax.random.key(0), ROWS[:16])),
        "key": text_of(lambda: step.start(jax.random.key(number), ROWS[:16])),
        "values": text_of(lambda: step.start(jax.random.key(0), ROWS[:16], params=given)),
        "input": text_of(lambda: step.start(jax.random.key(0), ROWS[:16, : 8 - number])),
        "rows": text_of(fit(data=training.Batches((ROWS, TARGETS), 18))),
        "no mesh": text_of(fit(alone)),
    }


def not_finite() -> Any:
    """Steps that are not finite: stopped at, skipped, on all processes alike."""
    rows = ROWS.copy()
    rows[40] = np.nan
    step = make_step()
    batches = training.Batches((rows, TARGETS), 16)
    state = step.start(jax.random.key(0), ROWS[:16])
    stopped = text_of(lambda: training.fit(step, state, batches, steps=6, progress=False))
    # What is read once is kept on the mesh, to be looked at.
    once = (batch for batch in list(batches))
    read_once = text_of(lambda: training.fit(step, state, once, steps=6, progress=False))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        skipped = training.fit(step, state, batches, steps=6, progress=False, non_finite="skip")
    return {
        "stopped": stopped,
        "read once": read_once,
        "skipped": numbers(skipped.state.params),
        "warned": [str(one.message) for one in caught],
    }


def generate() -> Any:
    """Ids that are drawn, by a model of which no process has all parameters."""
    model = jl.serial(jl.Embedding(16, 16), jl.SelfAttention(4, causal=True), jl.Dense(16))
    mesh = jax.make_mesh((2, jax.device_count() // 2), ("data", "model"))
    rules = sharding.tensor_parallel("model") + sharding.data_parallel("data")
    ids = np.arange(8, dtype=np.int32).reshape(4, 2)
    params, state = model.init(jax.random.key(0), ids)
    options = {"key": jax.random.key(1), "temperature": 1.0, "mesh": mesh, "rules": rules}
    return decoding.generate(model, params, state, ids, 4, **options).values


class Ended(training.Hook):
    """Says where the loop has ended."""

    def on_end(self, result: Any) -> None:
        print("ends after step", result.step, flush=True)


def end(name: str) -> None:
    """A training in which process 1 alone does something after three batches."""
    here = processes.index() == 1
    batches = list(training.Batches((ROWS, TARGETS), 16, key=3))

    def data(epoch: int) -> Iterator[Any]:
        yield from batches[:3]
        if here and name == "short":
            return
        if here and name == "loader":
            raise ValueError("a file of process 1 is missing")
        if here and name in SIGNALS:
            os.kill(os.getpid(), SIGNALS[name])
        # Long enough for a signal to come to the other process.
        for _ in range(100_000 if name == "SIGTERM" else 3):
            rows = 8 if here and name == "shape" else 16
            yield jax.tree.map(lambda leaf, rows=rows: leaf[:rows], batches[3])

    step = make_step()
    state = step.start(jax.random.key(0), ROWS[:16])
    training.fit(step, state, data, epochs=1, log_every=2, progress=False, hooks=[Ended()])


SIGNALS = {"killed": signal.SIGKILL, "SIGTERM": signal.SIGTERM}
PARTS = {part.__name__: part for part in (train, stacked, refused, not_finite, generate)}


def plain(value: Any) -> Any:
    """Arrays as lists."""
    return np.asarray(value).tolist()


def main() -> None:
    if sys.argv[1] == "end":
        sharding.initialize(timeout=15)
        end(sys.argv[2])
        return
    sharding.initialize(timeout=60)
    for name in sys.argv[1:]:
        print(json.dumps({name: PARTS[name]()}, default=plain), flush=True)


if __name__ == "__main__":
    main()
