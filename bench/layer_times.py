"""Whether the times of the layers add up to that of the model: ``python -m bench.layer_times``.

For four models: the sum of the layers over the whole, both of ``summary(profile=True)``, and the
whole over a compiled call. With ``--processor`` by the time of processors, which a busy machine
does not change.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

import jlayers as jl

BLOCK = jl.TransformerBlock(
    jl.SelfAttention(8, causal=True), jl.serial(jl.Dense(1024), jax.nn.gelu, jl.Dense(256))
)
MODELS = {
    "mlp": (
        jl.serial(jl.Dense(1024), jax.nn.relu, jl.Dense(1024), jax.nn.relu, jl.Dense(10)),
        jl.spec((256, 784)),
    ),
    "cnn": (
        jl.serial(
            *(jl.Conv(32, 3, padding="SAME"), jl.BatchNorm(), jax.nn.relu),
            *(jl.Conv(64, 3, padding="SAME"), jl.BatchNorm(), jax.nn.relu, jl.MaxPool(2)),
            *(jl.Conv(64, 3, padding="SAME"), jax.nn.relu, jl.MaxPool(2)),
            *(jl.Flatten(), jl.Dense(128), jax.nn.relu, jl.Dense(10)),
        ),
        jl.spec((32, 32, 32, 3)),
    ),
    "lstm": (
        jl.serial(jl.Embedding(1000, 128), jl.LSTM(256), jl.LSTM(256), jl.Dense(1000)),
        jl.spec((16, 64), jnp.int32),
    ),
    "transformer": (
        jl.serial(*(jl.Embedding(1000, 256), jl.repeat(BLOCK, 12), jl.LayerNorm(), jl.Dense(1000))),
        jl.spec((8, 64), jnp.int32),
    ),
}


def call_seconds(model: jl.Layer, x: object, runs: int = 15) -> float:
    """The median of a compiled ``apply``."""
    params, state = model.init(jax.random.key(0), x)
    given = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), x)
    apply = jax.jit(lambda params, state, x: model.apply(params, state, x)[0])
    jax.block_until_ready(apply(params, state, given))
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(apply(params, state, given))
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processor", action="store_true")
    parser.add_argument("models", nargs="*", choices=[*MODELS, []])
    options = parser.parse_args()
    if options.processor:
        # The clock of everything in this process.
        time.perf_counter = time.process_time
    print("| model | layers / whole | whole, ms | compiled call, ms |\n|---|---|---|---|")
    for name in options.models or MODELS:
        model, x = MODELS[name]
        total = jl.summary(model, x, profile=True)
        ratio, whole = total.layer_seconds / total.seconds, 1e3 * total.seconds
        call = 1e3 * call_seconds(model, x)
        print(f"| {name} | {ratio:.2f} | {whole:.2f} | {call:.2f} |", flush=True)


if __name__ == "__main__":
    main()
