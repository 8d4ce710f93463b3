"""Two models of text, an LSTM and a small transformer, read Python's standard library bytewise.

`language_model.py` trains both, a few minutes each on two CPU cores, and compares the bits that
they need for a byte of held-out files with those of bz2 and xz. Logs, checkpoints, samples and a
picture go to runs/lm. Run again, it continues where it stopped; `--fresh` starts again, and
`--only lstm` trains one of them.
"""

import argparse
import pathlib
import shutil
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import rich
from rich.table import Table
from text import packed, standard_library, windows

import jlayers as jl
from jlayers import decoding, training

RUNS = pathlib.Path("runs/lm")
CONTEXT, SCORED = 128, 384  # bytes of a held-out window: those that are only read, those that count


class Job(NamedTuple):
    """A model, and its training: ``rows`` windows of ``length`` bytes in each of ``steps``."""

    model: jl.Layer
    rate: float
    rows: int
    length: int
    steps: int


def lstm(width=384):
    return jl.serial(jl.Embedding(256, 128), jl.LSTM(width), head=jl.Dense(256))


def transformer(width=128, heads=4, blocks=4, window=128):
    # A window lets it continue beyond the length that it was trained with; the convolution gives
    # it the previous bytes, which attention takes long to find.
    attend = jl.SelfAttention(heads, causal=True, rope=True, window=window)
    mlp = jl.serial(jl.Dense(4 * width), jax.nn.gelu, jl.Dense(width))
    block = [jl.residual(jl.serial(jl.LayerNorm(), layer)) for layer in (attend, mlp)]
    near = jl.residual(jl.Conv(width, 6, padding="CAUSAL"))
    stem = jl.serial(jl.Embedding(256, width), near)
    return jl.serial(stem, *block * blocks, jl.LayerNorm(), head=jl.Dense(256))


JOBS = {
    "lstm": Job(lstm(), rate=2e-2, rows=16, length=128, steps=2800),
    "transformer": Job(transformer(), rate=3e-3, rows=8, length=256, steps=2400),
}


def bits(logits, targets):
    """The bits that each byte costs with these logits."""
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets.astype(jnp.int32))
    return nats / jnp.log(2)


def bits_of(model, text, every=1):
    """``evaluate(state)``: mean bits per byte of the text, or of one in ``every`` windows of it.

    Each byte counts in one window, and has at least CONTEXT bytes before it there: newlines where
    the text starts.
    """
    count = -(-len(text) // SCORED)
    padded = np.full(CONTEXT + count * SCORED, ord("\n"), np.uint8)
    padded[CONTEXT : CONTEXT + len(text)] = text
    seen = windows(padded, CONTEXT + SCORED, SCORED)[::every]
    counts = (np.arange(count * SCORED) < len(text)).reshape(count, SCORED)[::every]

    def measure(logits, targets, counts):
        costs = jnp.where(counts, bits(logits[:, CONTEXT - 1 :], targets), 0)
        return {"loss": costs.sum() / counts.sum(), "weight": counts.sum()}

    batches = training.Batches((seen[:, :-1], seen[:, CONTEXT:], counts), 32, last="keep")
    return training.make_evaluator(model, measure, batches)


def train(job, text, folder):
    """Trains, or continues where it stopped."""
    seen = windows(text.train, job.length + 1, job.length)
    batches = training.Batches((seen[:, :-1], seen[:, 1:]), job.rows, key=0)
    shape = job.rate, job.steps // 10, job.steps, job.rate / 50
    tx = optax.adamw(optax.warmup_cosine_decay_schedule(0, *shape), b2=0.99, weight_decay=0.01)
    step = training.train_step(job.model, lambda *pair: bits(*pair).mean(), tx, clip=1.0)
    return training.fit(
        step,
        step.start(jax.random.key(0), seen[: job.rows, :-1]),
        batches,
        steps=job.steps,
        log_every=max(job.steps // 100, 1),
        evaluate=bits_of(job.model, text.held_out, every=8),
        evaluate_every=max(job.steps // 10, 1),
        checkpoints=training.CheckpointManager(folder / "checkpoints"),
        checkpoint_every=max(job.steps // 10, 1),
        hooks=[training.json_lines(folder / "log.jsonl")],
    )


def write(model, state, prompts=(b"def ", b"class ", b'"""'), length=800):
    """What the model writes after each prompt, beginning with the prompt."""
    start = jl.Sequence.from_rows([list(prompt) for prompt in prompts])
    how = {"key": jax.random.key(0), "temperature": 0.7, "top_p": 0.95}
    ids = decoding.generate(model, state.params, state.state, start, length, **how).values
    rows = zip(prompts, np.asarray(ids, np.uint8), strict=True)
    return [(prompt + row.tobytes()).decode("utf-8", "replace") for prompt, row in rows]


def draw(records, packers, file):
    """Held-out bits per byte of each model over the bytes that it has read."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, (job, rows) in records.items():
        seen = {row.step: row.metrics["eval/loss"] for row in rows if "eval/loss" in row.metrics}
        megabytes = np.array([*seen]) * job.rows * job.length / 1e6
        axes.plot(megabytes, [*seen.values()], ".-", label=name)
    for i, (name, (alone, after)) in enumerate(packers.items(), len(JOBS)):
        axes.axhline(alone, color=f"C{i}", linestyle="--", label=f"{name}, held out alone")
        axes.axhline(after, color=f"C{i}", linestyle=":", label=f"{name}, after the other text")
    axes.set(xlabel="text read in training, MB", ylabel="bits per byte of held-out files")
    axes.legend()
    figure.savefig(file, dpi=120)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=JOBS, help="train this one alone")
    parser.add_argument("--fresh", action="store_true", help="forget what was trained before")
    chosen = parser.parse_args(arguments)
    text = standard_library()
    packers, records = packed(text), {}
    table = Table("", "parameters", "bytes read", "held out alone", "after the other text")
    table.title = f"bits per byte of {len(text.files)} files, {len(text.held_out):,} bytes"
    for name, pair in packers.items():
        table.add_row(name, "", "", *(f"{value:.3f}" for value in pair))
    for name in [chosen.only] if chosen.only else JOBS:
        job, folder = JOBS[name], RUNS / name
        if chosen.fresh:
            shutil.rmtree(folder, ignore_errors=True)
        summary = jl.summary(job.model, jl.spec((job.rows, job.length), jnp.int32))
        rich.print(f"[bold]{name}[/bold]", summary)
        fitted = train(job, text, folder)
        if fitted.stopped != "steps":
            sys.exit(f"stopped at step {fitted.step}: run it again to go on")
        records[name] = job, fitted.records
        counts = summary.parameters, fitted.step * job.rows * job.length
        held_out = bits_of(job.model, text.held_out)(fitted.state)["loss"]
        table.add_row(name, *(f"{count:,}" for count in counts), "", f"{held_out:.3f}")
        samples = "\n\n".join(write(job.model, fitted.state))
        (folder / "samples.txt").write_text(samples, encoding="utf-8")
    draw(records, packers, RUNS / "bits.png")
    rich.print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
