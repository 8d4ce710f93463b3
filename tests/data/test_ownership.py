"""Sources that fill one buffer again and again are copied, and nothing else is."""

import collections
import itertools
import os
import signal
import sys
import tracemalloc
import warnings
import weakref
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlayers import DataError, data, training
from jlayers.data import host_arrays, ownership

X = np.arange(48 * 3, dtype=np.float32).reshape(12, 4, 3)


class Pair(NamedTuple):
    x: np.ndarray
    y: np.ndarray


def fill(make):
    """A function of the epoch that fills one buffer, and yields what ``make`` makes of it."""

    def batches(epoch=0):
        buffer = np.empty((4, 3), np.float32)
        batch = make(buffer)
        for x in X:
            buffer[:] = x
            yield batch if callable(getattr(make, "keeps", None)) else make(buffer)

    return batches


def kept(make):
    """``make``, called once: the source yields the same container each time."""

    def once(buffer):
        return make(buffer)

    once.keeps = bool
    return once


REUSED = {
    "array": lambda b: b,
    "tuple": lambda b: (b,),
    "tuple, kept": kept(lambda b: (b,)),
    "dict, kept": kept(lambda b: {"x": b}),
    "nested, kept": kept(lambda b: ((b,), [b])),
    "outer of a kept one": (lambda inner: lambda b: (inner.setdefault(id(b), (b,)), 1))({}),
    "named tuple": lambda b: Pair(b, b),
    "view": lambda b: (b[:],),
    "rows": lambda b: (b[1:], b[:1]),
    "transposed": lambda b: (b.T,),
    "read-only view": lambda b: (readonly(b[:]),),
    "broadcast": lambda b: (np.broadcast_to(b[:1], (4, 3)),),
    "memory": lambda b: (np.frombuffer(b.data, np.float32),),
}


def readonly(array):
    array.flags.writeable = False
    return array


class Own:
    """A source of the user's own."""

    start, rereads = [0, 0], True

    def __init__(self, batches):
        self.batches = batches

    def read(self, position=None, epochs=None):
        epoch, index = position or self.start
        for i, batch in enumerate(self.batches(epoch)):
            if i >= index:
                yield batch, [epoch, i + 1]


AS_DATA = {
    "function": lambda batches: batches,
    "iterator": lambda batches: batches(),
    "iterable": lambda batches: data.as_source(Again(batches)),
    "source": Own,
}


class Again:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return self.batches()


def step(state, batch):
    """Weights each leaf of each batch by its place, so that none can stand for another."""
    total = sum(
        jnp.sum(leaf * (1.0 + jnp.arange(leaf.size).reshape(leaf.shape)))
        for leaf in jax.tree.leaves(batch)
        if jnp.ndim(leaf)
    )
    return state * 3.0 % 10007.0 + total, {}


def fitted(source, **options):
    with jax.numpy_dtype_promotion("standard"):
        state = jnp.zeros((), jnp.float32)
        options = {"prefetch": 0, "steps": 12, "progress": False} | options
        return float(training.fit(step, state, source, **options).state)


@pytest.mark.parametrize("small", [0, 1 << 13])
@pytest.mark.parametrize("kind", REUSED)
def test_a_buffer_that_is_filled_again_is_copied(monkeypatch, kind, small):
    monkeypatch.setattr(ownership, "_SMALL", small)
    own = [jax.tree.map(np.copy, batch) for batch in fill(REUSED[kind])()]
    assert fitted(fill(REUSED[kind])) == fitted(own)


@pytest.mark.parametrize("as_data", AS_DATA)
@pytest.mark.parametrize("options", [{}, {"prefetch": 3}, {"steps_per_call": 3}], ids=str)
def test_by_every_way_into_the_loop(as_data, options):
    source = AS_DATA[as_data](fill(REUSED["tuple"]))
    assert fitted(source, **options) == fitted([(x,) for x in X])


def test_a_copy_of_a_masked_array_is_one(monkeypatch):
    monkeypatch.setattr(ownership, "_SMALL", 0)
    masked = np.ma.masked_equal(X[0], 1)
    (found,) = map(ownership.owned, [masked])
    assert isinstance(found, np.ma.MaskedArray)
    assert (found.mask == masked.mask).all()
    assert not np.may_share_memory(found.data, masked.data)


def test_what_is_read_ahead_and_stacked_by_hand_is_copied():
    pairs = lambda: ((batch, [0, i]) for i, batch in enumerate(fill(REUSED["tuple"])()))  # noqa: E731
    with data.prefetch(pairs(), 5) as items:
        np.testing.assert_array_equal([x for (x,), _ in items], X)
    stacks = list(data.stack_batches(pairs(), 5))
    np.testing.assert_array_equal(np.concatenate([x for (x,), _, _ in stacks]), X)
    with data.prefetch(fill(REUSED["array"])(), 5, put=lambda x: x) as items:
        np.testing.assert_array_equal(list(items), X)


@pytest.mark.full
def test_a_buffer_of_torch_is_copied():
    torch = pytest.importorskip("torch")
    buffer = torch.empty(4, 3)

    def collate(rows):
        return buffer.copy_(torch.stack(rows))

    rows = list(torch.from_numpy(X.reshape(48, 3)))
    loader = torch.utils.data.DataLoader(rows, 4, collate_fn=collate)
    assert fitted(loader) == fitted(list(X))

    def tensors(epoch):
        for x in X:
            yield (buffer.copy_(torch.from_numpy(x)),)

    assert fitted(tensors) == fitted(list(X))


# What is not copied.


class Made:
    """Makes batches, and knows whether what comes out is the array that was made."""

    def __init__(self, make):
        self.make, self.arrays = make, []

    def __next__(self):
        array = np.array(X[len(self.arrays)])
        self.arrays.append(weakref.ref(array))
        return self.make(array)

    def __iter__(self):
        return self

    def copied(self):
        batch = jax.tree.leaves(next(iter(ownership.owned_items(self))))
        return batch[0] is not self.arrays[0]()


HOLDS = []
FRESH = {
    "tuple": (lambda x: (x,), False),
    "dict": (lambda x: {"x": x, "y": np.float32(1)}, False),
    "held": (lambda x: (HOLDS.append(x), (x,))[1], True),
    "container held": (lambda x: (HOLDS.append((x,)), HOLDS[-1])[1], True),
    "nested": (lambda x: ((x,), x.sum()), True),
    "read-only": (lambda x: (HOLDS.append(readonly(x)), [HOLDS[-1]])[1], False),
}


@pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="no counts")
@pytest.mark.parametrize("kind", FRESH)
def test_what_nothing_else_can_write_to_is_not_copied(monkeypatch, kind):
    monkeypatch.setattr(ownership, "_SMALL", 0)
    make, copied = FRESH[kind]
    assert Made(make).copied() == copied
    HOLDS.clear()


def test_lists_batches_and_arrays_of_jax_are_not_copied(monkeypatch):
    arrays = [(x.copy(),) for x in X]
    in_list, _ = next(data.as_source(arrays).read())
    in_iterator, _ = next(data.as_source(iter(arrays)).read())
    by_epoch, _ = next(data.as_source(lambda epoch: tuple(arrays)).read())
    assert in_list[0] is in_iterator[0] is by_epoch[0] is arrays[0][0]
    of_jax = jnp.ones(3)
    assert next(iter(ownership.owned_items(itertools.repeat((of_jax,)))))[0] is of_jax
    copies = []
    monkeypatch.setattr(host_arrays, "copy", lambda array: copies.append(1) or array.copy())
    reader = data.Batches((X,), 2, key=0).read(epochs=1)
    collections.deque(data.prefetch(reader), maxlen=0)
    collections.deque(data.stack_batches(data.as_source(arrays).read(epochs=1), 3), maxlen=0)
    assert copies == []


# Memory that grows with the rows, and numbers that grow beyond an int32.


def unaligned(array):
    memory = np.empty(array.nbytes + 1, np.uint8)
    out = np.ndarray(array.shape, array.dtype, memory, 1)
    out[...] = array
    return out


LAYOUTS = {
    "plain": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "every second": lambda a: np.repeat(a, 2, 0)[::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "unaligned": unaligned,
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("last", ["drop", "keep", "pad"])
@pytest.mark.parametrize("key", [None, 3])
def test_a_batch_takes_the_memory_of_its_rows(layout, last, key):
    rows = (1 << 12) + 3
    x = LAYOUTS[layout](np.arange(rows * 4, dtype=np.float32).reshape(rows, 4))
    batches = data.Batches((x,), 8, key=key, last=last)
    order = np.arange(rows) if key is None else batches._order(0, batches._key)
    for index in (0, len(batches) - 1):
        tracemalloc.start()
        got = batches.at(0, index)[0]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        expected = order[(8 * index + np.arange(8)) % rows]
        if last == "keep":
            expected = order[8 * index : 8 * index + 8]
        np.testing.assert_array_equal(got, x[expected])
        assert got.flags.c_contiguous
        assert not np.may_share_memory(got, x)
        assert peak < 4000, f"{x.nbytes} bytes in all"


def test_more_rows_than_an_int32_has():
    rows = 2**31 + 5
    x = np.broadcast_to(np.arange(3, dtype=np.int8), (rows, 3))
    batches = data.Batches((x,), 1 << 10, last="pad")
    assert len(batches) == (1 << 21) + 1
    places = batches._row_numbers(2**40, 1 << 21)
    assert (int(places[0]), int(places[4]), int(places[5])) == (2**31, 2**31 + 4, 0)
    one = data.Batches((x,), 1)
    assert one.at(2**40, rows - 1)[0].tolist() == [[0, 1, 2]]
    (_, position), *_ = itertools.islice(one.read([2**33, rows - 1]), 1)
    assert position == [2**33 + 1, 0]


def test_positions_beyond_the_largest_index():
    for source in (data.as_source([(1,)]), data.as_source(iter([(1,)]))):
        with pytest.raises(DataError, match="is past the end of the data"):
            next(source.read([0, 2**70]))


# A process that is forked.


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_is_told_and_does_not_hang():
    items = data.prefetch(itertools.repeat(np.ones(2)), 2)
    next(items)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks with threads
        child = os.fork()
    if not child:
        signal.alarm(20)
        status = 1
        try:
            next(items)
        except DataError as error:
            status = 0 if "a thread of another process" in str(error) else 2
            items.close()
            status = status or (3 if list(items) else 0)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(next(items), np.ones(2))
    items.close()
