"""Handwritten digits: a convolution and an LSTM that reads the image row by row, joined.

`digits.py train` trains, and writes the learning curve and the parameters to runs/digits;
`digits.py predict` loads these in a new process, predicts, and draws the misread digits.
"""

import pathlib
import sys

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from rich.progress import track
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jlayers as jl

RUNS, EPOCHS, BATCH = pathlib.Path("runs/digits"), 40, 64

edges = jl.serial(jl.Conv(32, 3, padding="SAME"), jax.nn.relu, jl.Conv(64, 3), jax.nn.relu)
rows = jl.serial(jl.Reshape((8, 8)), jl.LSTM(64, return_sequences=False))
model = jl.serial(
    jl.concat(image=jl.serial(edges, jl.MaxPool(2), jl.Flatten()), rows=rows),
    jl.Dropout(0.4),
    head=jl.serial(jl.Dense(128), jax.nn.relu, jl.Dense(10)),
)
init, apply = jl.without_state(model)
predict = jax.jit(lambda params, x: apply(params, x).argmax(-1))

x, y = load_digits(return_X_y=True)  # 1,797 images of 8 x 8 in 17 shades
x, y = np.float32(x.reshape(-1, 8, 8, 1) / 16), np.int32(y)
x, x_held, y, y_held = train_test_split(x, y, test_size=0.25, random_state=0)


def train():
    print(jl.summary(model, x[:BATCH]))
    steps = len(x) // BATCH  # of one epoch
    optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, EPOCHS * steps))
    params = init(jax.random.key(0), x[:BATCH])
    moments = optimizer.init(params)

    def loss_of(params, x, y, key):
        logits = apply(params, x, key, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def step(params, moments, x, y, key):
        loss, gradient = jax.value_and_grad(loss_of)(params, x, y, key)
        updates, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    losses, keys = [], iter(jax.random.split(jax.random.key(1), EPOCHS * steps))
    for epoch in track(range(EPOCHS), "training"):
        order = np.random.default_rng(epoch).permutation(len(x))
        for batch in order[: steps * BATCH].reshape(steps, BATCH):
            params, moments, loss = step(params, moments, x[batch], y[batch], next(keys))
            losses.append(loss)
    RUNS.mkdir(parents=True, exist_ok=True)
    save_file(jl.flatten(jax.tree.map(np.asarray, params)), RUNS / "params.safetensors")
    plt.semilogy(np.reshape(losses, (EPOCHS, steps)).mean(1))
    plt.gca().set(title="digits: learning curve", xlabel="epoch", ylabel="cross-entropy, nats")
    plt.savefig(RUNS / "curve.png", dpi=120)


def show():
    guess = predict(jl.unflatten(load_file(RUNS / "params.safetensors")), x_held)
    wrong = np.flatnonzero(guess != y_held)
    print(f"{1 - len(wrong) / len(y_held):.2%} of {len(y_held)} held-out digits read right")
    figure, axes = plt.subplots(1, max(len(wrong), 1), figsize=(8, 2), squeeze=False)
    for axis, i in zip(axes[0], wrong, strict=False):
        axis.imshow(x_held[i, :, :, 0], "gray_r")
        axis.set(title=f"{y_held[i]} read as {guess[i]}", xticks=[], yticks=[])
    figure.savefig(RUNS / "misread.png", dpi=120)


if __name__ == "__main__":
    {"predict": show}.get(sys.argv[-1], train)()
