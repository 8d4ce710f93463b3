"""What batches, sources, stacks and prefetch say of what they cannot take."""

import jax
import numpy as np
from error_text import each, read

from jlayers import training

X = np.arange(33, dtype=np.float32).reshape(11, 3)
LABELS = np.arange(11)
ITEMS = [(X[i : i + 4], LABELS[i : i + 4]) for i in range(0, 11, 4)]


def batches(size=4, **options):
    return training.Batches((X, LABELS), size, **options)


class Once:
    """What says that it can be read again, and cannot."""

    def __init__(self):
        self.items = iter(ITEMS)

    def __iter__(self):
        return self.items


READ_ONCE = training.as_source(iter(ITEMS))
READ_ONCE.read()
CONSTRUCTION = [
    (
        lambda: training.Batches((X, LABELS[:-1]), 4),
        "Batches: the first axes of the arrays differ",
        "as many rows in each",
        "'0': 11 rows, '1': 10 rows",
    ),
    (lambda: training.Batches((), 4), "Batches: there are no arrays", "()"),
    (lambda: training.Batches((X[:0],), 4), "Batches: the arrays have no rows"),
    (
        lambda: training.Batches({"x": X, "y": 3}, 4),
        "Batches: 'y' is no array with a first axis",
        "3",
        "np.asarray",
    ),
    (lambda: training.Batches(np.float32(3), 4), "Batches: arrays is no array with a first axis"),
    (lambda: batches(0), "Batches: size must be a positive int, got 0"),
    (
        lambda: batches(12),
        "Batches: 11 rows give no batch of 12",
        "a smaller size, or last='keep' or 'pad'",
    ),
    (lambda: batches(last="cut"), "Batches: unknown last 'cut'", "'drop', 'pad', 'keep'"),
    (
        lambda: training.Batches({"x": X}, 4, last="pad"),
        "Batches: last='pad' adds an entry to a tuple, and arrays is none",
        "{x: float32[11, 3]}",
        "Batches((x, *targets), ...)",
    ),
    (lambda: batches(key=-1), "Batches: key must be an int of at least 0, got -1"),
    (lambda: batches(key=2**128), "Batches: key must be less than 2*128, got *"),
    (lambda: batches(key=0.5), "Batches: the key is no single typed key"),
    (
        lambda: batches(key=jax.random.PRNGKey(0)),
        "Batches: the key is no single typed key",
        "jax.random.key(seed)",
    ),
]
READING = [
    (
        lambda: batches().read([0, 3]),
        "read: the position [0, 3] is beyond the end of the data",
        "an index of at most 2: epoch 0 has 2 batches",
        "of the same size",
    ),
    (lambda: batches().read([0, 1, 2]), "read: the position in the data is none", "two ints"),
    (lambda: batches().read([0, -1]), "read: the position in the data is none", "[0, -1]"),
    (lambda: batches().read([0, 0.5]), "read: the position in the data is none", "[0, 0.5]"),
    (lambda: batches().read("ab"), "read: the position in the data is none", "'ab'"),
    (lambda: batches().read(epochs=0), "read: epochs must be a positive int, got 0"),
    (lambda: batches().at(0, 2), "at: an epoch has 2 batches, there is no batch 2"),
    (lambda: training.as_source(ITEMS).read([1]), "the position in the data is none", "[1]"),
    (
        lambda: list(training.as_source(ITEMS).read([0, 4])),
        "the position [0, 4] is beyond the end of the data",
        "an index of at most 3: epoch 0 has 3 batches",
    ),
    (lambda: list(training.as_source([]).read()), "the data gave no batch in epoch 0"),
    (lambda: list(training.as_source([]).read([2, 1])), "the data gave no batch in epoch 2"),
    (lambda: list(training.as_source(iter([])).read()), "the data gave no batch in epoch 0"),
    (
        lambda: list(training.as_source(Once()).read()),
        "the data gave no batch in epoch 1",
        "each time it is read",
        "a function of the epoch",
    ),
    (READ_ONCE.read, "the data is an iterator, which can be read once, and was", "a list, or"),
    (
        lambda: training.as_source(iter(ITEMS)).read([1, 0]),
        "the position is in epoch 1, and an iterator has one epoch, number 0",
        "[1, 0]",
    ),
]
GIVEN = [
    (
        lambda: training.as_source((X, LABELS)),
        "as_source: the data is arrays, not batches of them",
        "Batches, an iterable of batches",
        "(float32[11, 3], int64[11])",
        "training.Batches((x, labels), 32, key=0)",
    ),
    (lambda: training.as_source(X), "as_source: the data is arrays, not batches of them"),
    (
        lambda: training.as_source({"x": X}),
        "as_source: the data is none",
        "Batches",
        "{x: float32[11, 3]}",
    ),
    (lambda: training.as_source("x.npy"), "as_source: the data is none", "'x.npy'"),
    (lambda: training.as_source(3), "as_source: the data is none", "a function of the epoch", "3"),
    (lambda: training.as_source(lambda: ITEMS), "as_source: data must be a function of (epoch)*"),
    (
        lambda: list(training.as_source(lambda epoch: epoch / 0).read()),
        "the function of the epoch raised ZeroDivisionError*",
    ),
    (
        lambda: list(training.as_source(lambda epoch: 3).read()),
        "the function of the epoch gave no iterable",
        "3",
    ),
    (
        lambda: list(training.stack_batches(batches(4, last="keep").read(), 3)),
        "batches that differ at '0' cannot be stacked",
        "float32[4, 3]",
        "float32[3, 3]",
        "last='drop'",
    ),
    (
        lambda: list(training.stack_batches(training.as_source(ITEMS).read(), 3)),
        "batches that differ at '0' cannot be stacked",
    ),
    (
        lambda: list(training.stack_batches([((X,), [0, 1]), ({"x": X}, [0, 2])], 2)),
        "batches of different structure cannot be stacked",
        "(float32[11, 3],)",
        "{x: float32[11, 3]}",
    ),
    (lambda: training.stack_batches([], 0), "stack_batches: steps must be a positive int, got 0"),
    (lambda: training.prefetch([], 0), "prefetch: size must be a positive int, got 0"),
    (lambda: training.prefetch(3), "prefetch: takes an iterable", "3"),
    (lambda: training.prefetch([], put=3), "prefetch: put must be a function of (item), got 3"),
]


@each(CONSTRUCTION, READING, GIVEN)
def test_errors(case):
    read(case)
