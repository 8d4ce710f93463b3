"""The errors of batches, sources, stacks and prefetch."""

import jax
import numpy as np
from error_text import each, read

from jlayers import training

X = np.arange(33, dtype=np.float32).reshape(11, 3)
LABELS = np.arange(11)
ITEMS = [(X[i : i + 4], LABELS[i : i + 4]) for i in range(0, 11, 4)]


def batches(size=4, **options):
    return training.Batches((X, LABELS), size, **options)


class ReadOnce:
    """An iterable whose second pass is empty."""

    def __init__(self):
        self.items = iter(ITEMS)

    def __iter__(self):
        return self.items


READ_ALREADY = training.as_source(iter(ITEMS))
READ_ALREADY.read()
CONSTRUCTION = [
    (
        lambda: training.Batches((X, LABELS[:-1]), 4),
        "Batches: the first axes of the arrays differ",
        "the same number of rows in each",
        "'0': 11 rows, '1': 10 rows",
    ),
    (lambda: training.Batches((), 4), "Batches: there are no arrays", "()"),
    (lambda: training.Batches((X[:0],), 4), "Batches: the arrays have no rows"),
    (
        lambda: training.Batches({"x": X, "y": 3}, 4),
        "Batches: 'y' must be an array with a first axis",
        "3",
        "np.asarray",
    ),
    (
        lambda: training.Batches(np.float32(3), 4),
        "Batches: arrays must be an array with a first axis",
    ),
    (lambda: batches(0), "Batches: size must be a positive int, got 0"),
    (
        lambda: batches(12),
        "Batches: there are only 11 rows, fewer than a batch of 12 has",
        "a smaller size, or last='keep' or 'pad'",
    ),
    (lambda: batches(last="cut"), "Batches: last must be 'drop' or 'pad' or 'keep'", "'cut'"),
    (
        lambda: training.Batches({"x": X}, 4, last="pad"),
        "Batches: arrays must be a tuple, to which last='pad' adds an entry",
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
        "read: the position [0, 3] is past the end of the data",
        "an index of at most 2: epoch 0 has 2 batches",
        "of the same size",
    ),
    (lambda: batches().read([0, 1, 2]), "read: invalid position in the data", "two ints"),
    (lambda: batches().read([0, -1]), "read: invalid position in the data", "[0, -1]"),
    (lambda: batches().read([0, 0.5]), "read: invalid position in the data", "[0, 0.5]"),
    (lambda: batches().read("ab"), "read: invalid position in the data", "'ab'"),
    (lambda: batches().read(epochs=0), "read: epochs must be a positive int, got 0"),
    (lambda: batches().at(0, 2), "at: index must be below 2, the batches of an epoch, got 2"),
    (lambda: training.as_source(ITEMS).read([1]), "invalid position in the data", "[1]"),
    (
        lambda: list(training.as_source(ITEMS).read([0, 4])),
        "the position [0, 4] is past the end of the data",
        "an index of at most 3: epoch 0 has 3 batches",
    ),
    (lambda: list(training.as_source([]).read()), "the data has no batch in epoch 0"),
    (lambda: list(training.as_source([]).read([2, 1])), "the data has no batch in epoch 2"),
    (lambda: list(training.as_source(iter([])).read()), "the data has no batch in epoch 0"),
    (
        lambda: list(training.as_source(ReadOnce()).read()),
        "the data has no batch in epoch 1",
        "each time it is read",
        "a function of the epoch",
    ),
    (READ_ALREADY.read, "the data is an iterator, which was read already", "a list, or"),
    (
        lambda: training.as_source(iter(ITEMS)).read([1, 0]),
        "the position is in epoch 1, and an iterator has only epoch 0",
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
        "as_source: unsupported data",
        "Batches",
        "{x: float32[11, 3]}",
    ),
    (lambda: training.as_source("x.npy"), "as_source: unsupported data", "'x.npy'"),
    (lambda: training.as_source(3), "as_source: unsupported data", "a function of the epoch", "3"),
    (lambda: training.as_source(lambda: ITEMS), "as_source: data must be a function of (epoch)*"),
    (
        lambda: list(training.as_source(lambda epoch: epoch / 0).read()),
        "the function of the epoch raised ZeroDivisionError*",
    ),
    (
        lambda: list(training.as_source(lambda epoch: 3).read()),
        "the function of the epoch must return an iterable",
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
    (lambda: training.prefetch(3), "prefetch: items must be an iterable", "3"),
    (lambda: training.prefetch([], put=3), "prefetch: put must be a function of (item), got 3"),
]


@each(CONSTRUCTION, READING, GIVEN)
def test_errors(case):
    read(case)
