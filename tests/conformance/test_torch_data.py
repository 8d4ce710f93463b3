"""PyTorch's DataLoader as a source of batches: the same numbers, and exact resumption."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl
from jlayers import training

torch = pytest.importorskip("torch")
data = torch.utils.data

pytestmark = pytest.mark.conformance
X = torch.arange(33.0).reshape(11, 3)
LABELS = torch.arange(11)
ROWS = data.TensorDataset(X, LABELS)


def seeded(seed=4):
    return torch.Generator().manual_seed(seed)


def by_sampler():
    sampler = data.WeightedRandomSampler(torch.ones(11), 11, generator=seeded())
    return data.DataLoader(ROWS, batch_size=4, sampler=sampler)


class Reversing(data.Sampler):
    """Tells epochs apart by what it is told, as DistributedSampler does."""

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 11

    def __iter__(self):
        return iter(np.roll(range(11), self.epoch).tolist())


LOADERS = {
    "in order": lambda: data.DataLoader(ROWS, batch_size=4),
    "shuffled": lambda: data.DataLoader(ROWS, 4, shuffle=True, generator=seeded()),
    "sampler": by_sampler,
    "set_epoch": lambda: data.DataLoader(ROWS, batch_size=4, sampler=Reversing()),
}


def labels_of(items):
    items = list(items)
    return [batch[1].tolist() for batch, _ in items], [after for _, after in items]


@pytest.mark.parametrize("kind", LOADERS)
def test_every_position_resumes_exactly(kind):
    loader, fresh = LOADERS[kind](), LOADERS[kind]()
    source = training.as_source(loader)
    whole, positions = labels_of(source.read(epochs=2))
    assert positions == [[0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0]]
    assert (whole[:3] == whole[3:]) == (kind == "in order")
    # A fresh loader, as in a new process, and one that was read before.
    for i, again in itertools.product(range(7), (fresh, loader)):
        position = json.loads(json.dumps([source.start, *positions][i]))
        rest = training.as_source(again).read(position, epochs=2)
        assert labels_of(rest) == (whole[i:], positions[i:])


def test_workers_change_nothing():
    options = {"num_workers": 1, "multiprocessing_context": "spawn", "persistent_workers": True}
    loader = data.DataLoader(ROWS, 4, shuffle=True, generator=seeded(), **options)
    alone = training.as_source(LOADERS["shuffled"]()).read([0, 1], epochs=3)
    assert labels_of(training.as_source(loader).read([0, 1], epochs=3)) == labels_of(alone)


def test_a_read_that_stops_leaves_the_seed_as_it_was():
    loader = LOADERS["shuffled"]()
    reading = training.as_source(loader).read([1, 0])
    next(reading)
    reading.close()
    assert loader.generator.initial_seed() == 4


def test_tensors_become_arrays_in_memory_of_their_own():
    rows = [{"x": X[:4], "half": X[:4].bfloat16(), "name": "a"}]
    ((batch, _),) = training.as_source(data.DataLoader(rows, batch_size=None)).read(epochs=1)
    np.testing.assert_array_equal(batch["x"], X[:4].numpy())
    assert batch["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(batch["half"].astype(np.float32), X[:4].numpy())
    assert batch["name"] == "a"
    # A loader may fill the same tensor again.
    assert batch["x"].ctypes.data != X.data_ptr()


def test_an_order_that_cannot_be_resumed_is_refused():
    for loader in (
        data.DataLoader(ROWS, 4, shuffle=True),
        data.DataLoader(ROWS, 4, sampler=data.RandomSampler(ROWS)),
        data.DataLoader(ROWS, batch_sampler=data.BatchSampler(data.RandomSampler(ROWS), 4, True)),
    ):
        with pytest.raises(jl.DataError) as caught:
            training.as_source(loader)
        assert str(caught.value).splitlines() == [
            "as_source: a DataLoader that shuffles by PyTorch's global generator cannot be resumed",
            "  expected: an order that is a function of a seed and the epoch",
            "  hint:     generator=torch.Generator().manual_seed(0), for a sampler of your own too",
        ]
