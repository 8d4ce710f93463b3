"""Fine-tune the encoder of voices of Resemblyzer: is a voice low or high?

A new head is trained first, then the encoder too, at smaller rates the nearer a layer is to the
input. Run by `make pretrained`; docs/fine-tuning.md explains it.
"""

from collections.abc import Iterator

import jax
import numpy as np
import optax

import jlayers as jl
from jlayers import training

from .resemblyzer import encoder, load, mel
from .speech import speech

RATES = {
    "encoder/lstm": 3e-5,
    "encoder/lstm_1": 1e-4,
    "encoder/lstm_2": 3e-4,
    "encoder/dense": 1e-3,
    "head": 1e-2,
}


def voices(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Spectrograms (count, 160, 40) of low and high voices, and which they are: 0 or 1."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).astype("int32")
    pitches = np.where(labels, rng.uniform(160, 240, count), rng.uniform(90, 150, count))
    sounds = [speech(1.6, pitch=pitch, seed=seed + i) for i, pitch in enumerate(pitches)]
    return np.array(mel.apply({}, {}, np.stack(sounds))[0][:, :160]), labels


def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """The share of rows whose class is right."""
    return {"accuracy": (logits.argmax(-1) == labels).mean()}


def stages(epochs: int = 4, size: int = 16) -> Iterator[tuple[str, list[training.Record]]]:
    """What is trained, and a record for each epoch of it: first the head alone, then all."""
    (x, labels), new = voices(96, seed=0), voices(48, seed=1000)
    model = jl.serial(encoder=encoder, head=jl.Dense(2))
    params, _ = model.init(jax.random.key(0), x[:size])
    params |= {"encoder": load()[0]}
    names = {p: next(n for n in RATES if p.startswith(f"{n}/")) for p in jl.flatten(params)}
    by_depth = optax.multi_transform(
        {name: optax.adam(rate) for name, rate in RATES.items()}, jl.unflatten(names)
    )
    for name, step in (
        ("head", training.train_step(model, loss, optax.adam(0.03), frozen="encoder/**")),
        ("all, rates by depth", training.train_step(model, loss, by_depth)),
    ):
        result = training.fit(
            step,
            step.start(jax.random.key(1), x[:size], params=params),
            training.Batches((x, labels), size, key=1),
            epochs=epochs,
            log_every=len(x) // size,
            evaluate=training.make_evaluator(model, accuracy, training.Batches(new, size)),
            evaluate_every=len(x) // size,
            progress=False,
        )
        params = result.state.params
        yield name, result.records


if __name__ == "__main__":
    for name, records in stages():
        for record in records:
            right = record.metrics["eval/accuracy"]
            print(f"{name:20} loss {record.metrics['loss']:.3f}, {right:.0%} of new voices right")
