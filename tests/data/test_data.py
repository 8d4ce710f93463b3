"""Batches and sources resume exactly from every position; stacks of batches."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl
from jlayers import training
from jlayers.data import host_arrays

ROWS = 11
X = np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3)
LABELS = np.arange(ROWS)
EPOCHS = 3


def labels_of(items):
    """The labels of all batches, and the positions after them."""
    items = list(items)
    return [np.asarray(batch[1]).tolist() for batch, _ in items], [after for _, after in items]


def batches(size=4, **options):
    return training.Batches((X, LABELS), size, **options)


class Rereadable:
    def __iter__(self):
        return iter(ITEMS)


ITEMS = [(X[i : i + 4], LABELS[i : i + 4]) for i in range(0, ROWS, 4)]
SOURCES = {
    "shuffled": lambda: batches(key=5),
    "in order": lambda: batches(),
    "padded": lambda: batches(key=5, last="pad"),
    "kept": lambda: batches(3, key=5, last="keep"),
    "list": lambda: training.as_source(ITEMS),
    "object": lambda: training.as_source(Rereadable()),
    "function": lambda: training.as_source(lambda epoch: ITEMS[epoch % 3 :] + ITEMS[: epoch % 3]),
    "generators": lambda: training.as_source(lambda epoch: (item for item in ITEMS)),
}


def check_resumes(make, epochs=EPOCHS):
    """From every position, through JSON, a new source gives what an uninterrupted one gave."""
    source = make()
    whole, positions = labels_of(source.read(epochs=epochs))
    assert len(whole) == len(positions) >= epochs
    assert positions[-1][:2] == [epochs, 0]
    for i, position in enumerate([source.start, *positions]):
        position = json.loads(json.dumps(position))
        assert labels_of(make().read(position, epochs=epochs)) == (whole[i:], positions[i:])
    return whole


@pytest.mark.parametrize("kind", SOURCES)
def test_every_position_resumes_exactly(kind):
    check_resumes(SOURCES[kind])


def test_an_iterator_is_resumed_by_a_new_one():
    make = lambda: training.as_source(item for item in ITEMS)  # noqa: E731
    whole, positions = labels_of(make().read())
    assert positions == [[0, 1], [0, 2], [0, 3]]
    for i in range(len(ITEMS) + 1):
        assert labels_of(make().read([0, i])) == (whole[i:], positions[i:])
    assert [make().rereads, training.as_source(ITEMS).rereads, batches().rereads] == [0, 1, 1]


def test_the_position_after_an_epoch_is_the_start_of_the_next():
    source = training.as_source(ITEMS)
    assert labels_of(source.read([0, 3], 2)) == labels_of(source.read([1, 0], 2))
    by_length, by_next = batches().read([0, 2], epochs=2), batches().read([1, 0], epochs=2)
    assert labels_of(by_length) == labels_of(by_next)


def test_grain(monkeypatch):
    grain = pytest.importorskip("grain.python")

    def dataset():
        return grain.MapDataset.source(list(zip(X, LABELS, strict=True))).shuffle(seed=1).batch(4)

    class Rows:
        def __len__(self):
            return ROWS

        def __getitem__(self, i):
            return X[i], LABELS[i]

        def __repr__(self):
            return "Rows"

    def loader():
        sampler = grain.IndexSampler(ROWS, shuffle=True, seed=3, num_epochs=1)
        batch = grain.Batch(4, drop_remainder=True)
        return grain.DataLoader(data_source=Rows(), sampler=sampler, operations=[batch])

    shuffled = check_resumes(lambda: training.as_source(dataset()))
    epochs = [[*itertools.chain(*shuffled[i : i + 3])] for i in range(0, 9, 3)]
    assert [sorted(epoch) for epoch in epochs] == [[*range(ROWS)]] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    check_resumes(lambda: training.as_source(dataset().to_iter_dataset()), epochs=2)
    check_resumes(lambda: training.as_source(loader()), epochs=2)
    _, (position, *_) = labels_of(training.as_source(loader()).read(epochs=1))
    monkeypatch.setattr(Rows, "__repr__", lambda rows: "others")
    with pytest.raises(jl.DataError, match="grain's set_state raised ValueError: DataSource in"):
        list(training.as_source(loader()).read(position))
    endless = training.as_source(dataset().repeat()).read()
    assert [after[:2] for _, after in itertools.islice(endless, 4)] == [
        [0, i] for i in (1, 2, 3, 4)
    ]


# The docstring promises that key and epoch give these orders in all versions.
PROMISED = [
    ((0, 0), 0, [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]),
    ((0, 0), 1, [8, 7, 4, 2, 6, 5, 9, 0, 1, 3]),
    ((7, 2**63), 3, [2, 5, 6, 1, 9, 0, 3, 4, 8, 7]),
]


@pytest.mark.parametrize(("key", "epoch", "order"), PROMISED)
def test_the_order_is_as_promised(key, epoch, order):
    seed = key[0] + (key[1] << 64)
    got = [
        batch.item()
        for (batch,), _ in training.Batches((np.arange(10),), 1, key=seed).read(
            [epoch, 0], epochs=epoch + 1
        )
    ]
    assert got == order
    words = philox(key, epoch, 10)
    assert got == sorted(range(10), key=lambda row: (words[row] >> 4, row))


def philox(key, epoch, count):
    """Philox 4x64-10 as in its paper; the counter is incremented before each block of four."""
    whole, words = 2**64, []
    for block in range(1, -(-count // 4) + 1):
        (low, high), (c0, c1, c2, c3) = key, (block, 0, 0, epoch)
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
            c0, c1, c2, c3 = b // whole ^ c1 ^ low, b % whole, a // whole ^ c3 ^ high, a % whole
            low, high = (low + 0x9E3779B97F4A7C15) % whole, (high + 0xBB67AE8584CAA73B) % whole
        words += [c0, c1, c2, c3]
    return words[:count]


def test_epochs_and_keys_differ_and_have_every_row_once():
    orders = {
        (key, epoch): np.concatenate([b.at(epoch, i)[1] for i in range(len(b))])
        for key in range(4)
        for b in [training.Batches((X, LABELS), 1, key=key)]
        for epoch in range(4)
    }
    assert all(sorted(order) == [*range(ROWS)] for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 16


def test_a_seed_is_the_key_made_of_it():
    for seed in (0, 9):
        by_key = batches(key=jax.random.key(seed)).read(epochs=2)
        assert labels_of(by_key) == labels_of(batches(key=seed).read(epochs=2))
    wide = batches(key=jax.random.key(9, impl="rbg")).read(epochs=2)
    assert labels_of(wide) != labels_of(batches(key=9).read(epochs=2))


def test_the_last_batch():
    drop, keep, pad = (batches(key=1, last=last) for last in ("drop", "keep", "pad"))
    assert [len(b) for b in (drop, keep, pad)] == [2, 3, 3]
    assert [len(x) for x, _ in keep] == [4, 4, 3]
    assert [x.shape for x, _, _ in pad] == [(4, 3)] * 3
    assert [valid.tolist() for *_, valid in pad] == [[True] * 4] * 2 + [[True] * 3 + [False]]
    assert pad.at(0, 2)[1].tolist() == [*keep.at(0, 2)[1], keep.at(0, 0)[1][0]]
    real = np.concatenate([labels[valid] for _, labels, valid in pad])
    assert sorted(real) == [*range(ROWS)]
    few = training.Batches((np.arange(2),), 5, last="pad").at(0, 0)
    assert [leaf.tolist() for leaf in few] == [[0, 1, 0, 1, 0], [True, True, False, False, False]]
    assert [len(x) for (x,) in training.Batches((np.arange(6),), 3, last="keep")] == [3, 3]


def test_rows_of_all_leaves_stay_together(tmp_path):
    stored = np.memmap(tmp_path / "x", np.float32, "w+", shape=X.shape)
    stored[:] = X
    tree = {
        "x": jl.Sequence(jnp.asarray(X)[:, :, None]),
        "stored": stored,
        "half": X.astype("bfloat16"),
    }
    batch = training.Batches((tree, LABELS), 4, key=2).at(1, 1)
    rows = batch[1]
    assert isinstance(batch[0]["x"], jl.Sequence)
    np.testing.assert_array_equal(batch[0]["x"].values, X[rows][:, :, None])
    np.testing.assert_array_equal(batch[0]["stored"], X[rows])
    assert type(batch[0]["stored"]) is np.ndarray
    assert batch[0]["half"].dtype == jnp.bfloat16


def test_batches_have_memory_of_their_own():
    large = np.zeros((64, 1024), np.float32)
    x, again = (training.Batches((large,), 32).at(0, 0)[0] for _ in range(2))
    assert not np.shares_memory(x, large)
    assert not np.shares_memory(x, again)
    assert x.ctypes.data % 64 == 0
    off = host_arrays.empty((32 * 1024 + 1,), np.float32)[1:]
    assert host_arrays.aligned(off).ctypes.data % 64 == 0
    assert host_arrays.aligned(x) is x
    np.testing.assert_array_equal(host_arrays.aligned(large.T), large.T)


@pytest.mark.parametrize("by", [lambda items: items, list, iter], ids=["rows", "list", "iterator"])
@pytest.mark.parametrize("kind", ["shuffled", "in order", "padded"])
def test_stacks_are_the_batches(kind, by):
    one = list(SOURCES[kind]().read([0, 1], epochs=2))
    many = list(training.stack_batches(by(SOURCES[kind]().read([0, 1], epochs=2)), 2))
    assert [count for _, _, count in many] == [2] * (len(one) // 2) + [1] * (len(one) % 2)
    for i, (stack, after, count) in enumerate(many):
        part = one[2 * i : 2 * i + count]
        assert after == part[-1][1]
        same(stack, jax.tree.map(lambda *leaves: np.stack(leaves), *(batch for batch, _ in part)))


def same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


def test_stacks_of_jax_arrays_and_sequences():
    x = jl.Sequence(jnp.asarray(X)[:, :, None])
    items = [((x, jax.random.key(i)), [0, i]) for i in range(2)]
    (((stack, keys), _, count),) = training.stack_batches(items, 2)
    assert isinstance(stack, jl.Sequence)
    assert count == 2
    assert isinstance(stack.values, np.ndarray)
    assert stack.values.shape == (2, ROWS, 3, 1)
    assert keys.shape == (2,)
    assert jax.random.key_data(keys[1]).tolist() == [0, 1]


def test_a_smaller_batch_ends_a_stack_and_is_not_lost():
    kept = training.stack_batches(batches(3, last="keep").read(epochs=1), 3)
    assert next(kept)[0][0].shape == (3, 3, 3)
    assert next(kept)[0][0].shape == (1, 2, 3)
