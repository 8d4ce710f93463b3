"""``Batches.map``, batches of like lengths, and mixtures of examples."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jlayers as jl
from jlayers import data, training

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)


def jittered(rows, keys):
    return jax.vmap(lambda row, key: row + jax.random.uniform(key, ()))(rows, keys)


def by_row(batches, size, epoch=0):
    """What each row of the data became in an epoch."""
    found = {}
    for index in range(len(batches)):
        for value in np.asarray(batches.at(epoch, index)):
            found[int(value[0] // 3)] = value
    return found


def test_a_row_depends_on_key_epoch_and_row_alone():
    """Not on the batch's size, on the order, or on where reading began."""
    first = data.Batches(ROWS, 4, key=0).map(jittered, key=7)
    other = data.Batches(ROWS, 5, key=1).map(jittered, key=7)
    one, two = by_row(first, 4), by_row(other, 5)
    assert one.keys() == two.keys() == set(range(20))
    for row, value in one.items():
        np.testing.assert_array_equal(value, two[row])
    assert not np.array_equal(by_row(first, 4, epoch=1)[3], one[3])
    assert not np.array_equal(by_row(data.Batches(ROWS, 4).map(jittered, key=8), 4)[3], one[3])
    shifts = [value[0] - 3 * row for row, value in one.items()]
    assert len(set(shifts)) == 20


def test_reading_goes_on_where_it_ended():
    batches = data.Batches((ROWS, ROWS[:, 0]), 3, key=0, last="pad")

    def both(batch, keys):
        rows, labels, valid = batch
        return jittered(rows, keys), labels, valid

    batches = batches.map(both, key=1).map(lambda batch: (batch[0] * 2, *batch[1:]))
    whole = list(batches.read(epochs=2))
    for at in (1, 8):
        rest = list(batches.read(whole[at - 1][1], epochs=2))
        assert len(rest) == len(whole) - at
        for (one, place), (two, same) in zip(rest, whole[at:], strict=True):
            assert place == same
            jax.tree.map(np.testing.assert_array_equal, one, two)
    stacks = list(data.stack_batches(batches.read(epochs=1), 3))
    np.testing.assert_array_equal(stacks[0][0][0][1], whole[1][0][0])


def test_training_resumes_exactly(tmp_path):
    model = jl.Dense(1)

    def loss(y, target):
        return optax.squared_error(y[:, 0], target).mean()

    batches = data.Batches((ROWS, ROWS[:, 0]), 4, key=0)
    batches = batches.map(lambda batch, keys: (jittered(batch[0], keys), batch[1]), key=2)
    step = training.train_step(model, loss, optax.sgd(1e-4))

    def run(steps, folder):
        return training.fit(
            step,
            step.start(jax.random.key(0), ROWS[:1]),
            batches,
            steps=steps,
            checkpoints=None if folder is None else training.CheckpointManager(folder),
            progress=False,
        )

    whole = run(13, None)
    run(6, tmp_path)
    resumed = run(13, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, whole.state.params, resumed.state.params)


def test_an_evaluation_reads_all_rows_of_mapped_batches():
    batches = data.Batches((ROWS, ROWS[:, 0]), 8).map(lambda batch: (batch[0], batch[1] * 0 + 1))
    evaluate = training.make_evaluator(
        jl.serial(), lambda y, target: {"ones": target.mean(), "first": y[:, 0].mean()}, batches
    )
    state = training.train_state(jl.serial(), optax.sgd(0.1), jax.random.key(0), ROWS)
    found = evaluate(state)
    np.testing.assert_allclose([found["ones"], found["first"]], [1, ROWS[:, 0].mean()])


def test_a_function_that_fills_one_buffer_again_is_copied():
    buffer = np.zeros((4, 3), np.float32)

    def fill(rows):
        buffer[:] = rows
        return buffer

    batches = data.Batches(ROWS, 4).map(fill)
    stacks = list(data.stack_batches(batches.read(epochs=1), 5))
    np.testing.assert_array_equal(stacks[0][0].reshape(20, 3), ROWS)
    with data.prefetch(batches.read(epochs=1)) as items:
        kept = [batch for batch, _ in items]
    np.testing.assert_array_equal(np.concatenate(kept), ROWS)


LENGTHS = [2, 9, 3, 8, 2, 3, 5, 9, 1, 4, 6, 2]


def ragged():
    rows = [np.full(n, i, np.float32) for i, n in enumerate(LENGTHS)]
    return jl.Sequence.from_rows(rows), np.arange(len(LENGTHS))


@pytest.mark.parametrize("last", ["drop", "keep", "pad"])
@pytest.mark.parametrize("key", [None, 3])
def test_buckets(last, key):
    batches = data.LengthBuckets(ragged(), 2, boundaries=[3, 6], key=key, last=last)
    seen = []
    for epoch in range(2):
        for index in range(len(batches)):
            sequence, labels, *valid = batches.at(epoch, index)
            counts = valid[0] if valid else np.ones(len(labels), bool)
            longest = max(LENGTHS[i] for i in labels)
            edge = next(edge for edge in (3, 6, 9) if longest <= edge)
            assert sequence.values.shape == (len(labels), edge)
            assert all(LENGTHS[i] > edge - 3 for i in labels)
            for row, label in enumerate(labels):
                n = LENGTHS[label]
                assert sequence.mask[row].sum() == n
                assert (np.asarray(sequence.values)[row, :n] == label).all()
            seen += [label for label, counted in zip(labels, counts, strict=True) if counted]
            assert last == "keep" or len(labels) == 2
    if last == "drop":
        # Six rows of at most 3 steps, three of at most 6, three of at most 9.
        assert len(seen) == 2 * 10
    else:
        assert sorted(seen) == sorted([*range(12)] * 2)


def test_buckets_are_shuffled_and_resumed():
    batches = data.LengthBuckets(ragged(), 2, boundaries=[3, 6], key=0, last="keep")
    orders = [[batches.at(epoch, i)[0].values.shape[1] for i in range(7)] for epoch in range(4)]
    assert len({tuple(order) for order in orders}) > 1
    whole = [batch for batch, _ in batches.read(epochs=2)]
    (batch, _), *_ = batches.read([1, 2], epochs=2)
    jax.tree.map(np.testing.assert_array_equal, batch, whole[9])
    mapped = batches.map(lambda batch: (batch[0] * 2, batch[1]))
    np.testing.assert_array_equal(mapped.at(0, 0)[0].values, 2 * whole[0][0].values)


def test_a_model_trains_on_buckets():
    model = jl.serial(jl.Embedding(20, 4), jl.LSTM(4, return_sequences=False), jl.Dense(1))
    ids = jl.Sequence.from_rows([np.full(n, n, np.int32) for n in LENGTHS])
    labels = np.array(LENGTHS, np.float32)
    batches = data.LengthBuckets((ids, labels), 2, boundaries=[3, 6], key=0)

    def loss(y, target):
        return optax.squared_error(y[:, 0], target).mean()

    step = training.train_step(model, loss, optax.sgd(1e-2))
    with pytest.warns(UserWarning, match="the step was compiled again at step"):
        fitted = training.fit(
            step,
            step.start(jax.random.key(0), batches.at(0, 0)[0]),
            batches,
            steps=60,
            max_compiles=3,
            log_every=20,
            progress=False,
        )
    assert fitted.records[-1].metrics["loss"] < fitted.records[0].metrics["loss"]


def test_another_key_of_map_is_another_source():
    """A run that goes on with it would not have the batches of the run before."""
    rows = data.Batches(np.arange(6.0), 2)
    marks = [rows.map(_noise, key=key).fingerprint for key in (1, 1, 2)]
    assert marks[0] == marks[1] != marks[2]
    assert json.loads(json.dumps(marks[0])) == marks[0]


def _noise(batch, keys):
    return batch + jax.vmap(jax.random.uniform)(keys)


def test_rows_without_steps_have_a_bucket():
    nothing = jl.Sequence(np.zeros((3, 0)), np.zeros((3, 0), bool))
    (batch,) = data.LengthBuckets((nothing, np.arange(3)), 3, boundaries=[2])
    assert batch[0].values.shape == (3, 0)


def test_mixup_averages_x_and_labels_alike():
    x = np.random.default_rng(0).standard_normal((16, 4, 4, 2)).astype("float32")
    labels = np.eye(16, dtype="float32")
    mixed, shares = jax.jit(data.mixup)(jax.random.key(0), x, labels)
    averaged = np.asarray(shares) @ x.reshape(16, -1)
    np.testing.assert_allclose(averaged, mixed.reshape(16, -1), atol=1e-5)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
    assert ((np.asarray(shares) > 0).sum(1) <= 2).all()


def test_cutmix_takes_a_box_of_another_image():
    x = np.broadcast_to(np.arange(8.0, dtype="float32")[:, None, None, None], (8, 9, 7, 1))
    mixed, shares = jax.jit(data.cutmix)(jax.random.key(3), x, np.eye(8, dtype="float32"))
    mixed = np.asarray(mixed)[..., 0]
    boxes = 0
    for row in range(8):
        other = mixed[row] != row
        places = np.argwhere(other)
        if len(places):
            low, high = places.min(0), places.max(0) + 1
            assert other[low[0] : high[0], low[1] : high[1]].all()
            boxes += 1
        np.testing.assert_allclose(shares[row, row], 1 - other.mean(), atol=1e-6)
    assert boxes > 2


def test_shares_have_the_moments_of_the_beta_distribution():
    x, labels = np.zeros((4000, 1), np.float32), np.eye(4000, dtype="float32")
    for alpha in (0.2, 2.0):
        _, shares = data.mixup(jax.random.key(1), x, labels, alpha=alpha)
        own = np.diagonal(shares)
        np.testing.assert_allclose(own.mean(), 0.5, atol=0.03)
        np.testing.assert_allclose(own.var(), 1 / (4 * (2 * alpha + 1)), atol=0.02)


ERRORS = {
    "map needs a function": lambda: data.Batches(ROWS, 2).map(3),
    "key must be an int of at least 0, got -1": lambda: data.Batches(ROWS, 2).map(jittered, key=-1),
    "rows of several lengths must be a Sequence, got a list": lambda: data.LengthBuckets(
        ([np.ones(3), np.ones(5)], np.ones(2)), 1, boundaries=[4]
    ),
    "boundaries must be several lengths, got 4": lambda: data.LengthBuckets(
        ragged(), 2, boundaries=4
    ),
    "hint:     the boundaries have a name: LengthBuckets(": lambda: data.LengthBuckets(
        ragged(), [3, 6], 2
    ),
    "hint:     boundaries=[8, 16], to which": lambda: data.LengthBuckets(ragged(), 2),
    "there is no Sequence whose rows have lengths": lambda: data.LengthBuckets(
        (ROWS,), 2, boundaries=[2]
    ),
    "boundaries must ascend": lambda: data.LengthBuckets(ragged(), 2, boundaries=[6, 3]),
    "a boundary must be a positive int": lambda: data.LengthBuckets(ragged(), 2, boundaries=[0, 3]),
    "no bucket has the 9 rows of a batch\n  got:      rows of buckets up to [3, 9]: [6, 6]": (
        lambda: data.LengthBuckets(ragged(), 9, boundaries=[3])
    ),
    "batches that differ at '0/values' cannot be stacked": lambda: next(
        data.stack_batches(data.LengthBuckets(ragged(), 2, boundaries=[3, 6]).read(), 5)
    ),
    "mixup: x and labels must have the same rows\n"
    "  got:      float32[4, 2] and float32[1, 3]": lambda: data.mixup(
        jax.random.key(0), np.ones((4, 2), np.float32), np.ones((1, 3), np.float32)
    ),
    "cutmix: x and labels must have the same rows": lambda: data.cutmix(
        jax.random.key(0), np.ones((4, 2, 1), np.float32), np.ones((1, 3), np.float32)
    ),
    "mixup: labels must be probabilities (batch, classes)\n  got:      int32[20]\n"
    "  hint:     jax.nn.one_hot(labels, classes)": lambda: data.mixup(
        jax.random.key(0), ROWS, np.arange(20, dtype=np.int32)
    ),
    "mixup: x must be floating": lambda: data.mixup(
        jax.random.key(0), np.zeros((2, 3), np.uint8), np.eye(2)
    ),
    "cutmix: x must be (batch, *spatial, channels)": lambda: data.cutmix(
        jax.random.key(0), ROWS, jnp.eye(20)
    ),
    "alpha must be a number above 0": lambda: data.mixup(
        jax.random.key(0), ROWS, jnp.eye(20), alpha=0
    ),
}


@pytest.mark.parametrize("text", ERRORS)
def test_errors(text):
    with pytest.raises(jl.JlayersError) as caught:
        ERRORS[text]()
    assert text in str(caught.value)
