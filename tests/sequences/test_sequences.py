"""Sequences: no layer lets padding through, and a row is what it is alone."""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables.instances import INSTANCES
from tables.tiers import full, named, rows

import jlayers as jl
from jlayers.testing import check_sequence

STEPS = jl.spec((3, 6, 4))
FRAMES = jl.spec((3, 6, 5, 4))
SIGNALS = jl.spec((3, 12))
CAUSAL = {"padding": "CAUSAL"}
NORMAL = jax.nn.initializers.normal(1.0)


class Row(NamedTuple):
    """A layer, an input, and whether the row is for ``make test-all`` alone."""

    layer: jl.Layer
    x: jax.ShapeDtypeStruct
    full: bool = False


# Beside the table of instances: other strides, paddings and surroundings.
LAYERS = {
    "conv": Row(jl.Conv(3, 3), STEPS),
    "conv, strided, all of it": Row(jl.Conv(3, 3, padding="SAME", strides=2), STEPS),
    "conv, more padding than it needs": Row(
        jl.Conv(3, 2, padding=((2, 1),), dilation=2), STEPS, full=True
    ),
    "conv, causal": Row(jl.Conv(3, 3, dilation=2, **CAUSAL), STEPS),
    "conv, causal, long": Row(jl.Conv(3, 3, dilation=32, **CAUSAL), STEPS),
    "conv, causal, strided": Row(jl.Conv(3, 3, strides=2, **CAUSAL), STEPS, full=True),
    "conv of frames, causal": Row(jl.Conv(3, (2, 3), padding=((1, 0), (1, 1))), FRAMES, full=True),
    "transposed conv": Row(jl.ConvTranspose(3, 3, strides=2), STEPS),
    "transposed conv, cropped": Row(jl.ConvTranspose(3, 2, strides=3, padding=((0, 1),)), STEPS),
    "max pool": Row(jl.MaxPool(3, strides=2, padding="SAME"), STEPS),
    "max pool, causal": Row(jl.MaxPool(3, strides=1, **CAUSAL), STEPS),
    "max pool, dilated, causal": Row(jl.MaxPool(2, strides=1, dilation=3, **CAUSAL), STEPS),
    "max pool, to the last step": Row(jl.MaxPool(3, strides=2, padding=1, ceil_mode=True), STEPS),
    "average pool, to the last step": Row(
        jl.AvgPool(2, strides=3, ceil_mode=True), STEPS, full=True
    ),
    "pool of products, causal": Row(jl.Pool(jnp.multiply, 1, 3, strides=1, **CAUSAL), STEPS),
    "blur pool": Row(jl.BlurPool(), STEPS),
    "blur pool, causal": Row(jl.BlurPool(4, **CAUSAL), STEPS, full=True),
    "average pool": Row(jl.AvgPool(2), STEPS),
    "average pool, causal": Row(jl.AvgPool(3, **CAUSAL), STEPS),
    "average pool, padding counts": Row(
        jl.AvgPool(3, strides=1, count_include_pad=True, **CAUSAL), STEPS, full=True
    ),
    "average pool of frames": Row(
        jl.AvgPool(2, strides=1, padding=((1, 0), (0, 1))), FRAMES, full=True
    ),
    "average pool, inside its stride": Row(jl.AvgPool(5, strides=3, padding=2), STEPS),
    "conv, inside its stride": Row(jl.Conv(3, 2, strides=3), STEPS, full=True),
    "pool and back": Row(
        jl.residual(jl.serial(jl.MaxPool(2), jl.ConvTranspose(4, 2, strides=2, **CAUSAL))), STEPS
    ),
    "global average pool": Row(jl.GlobalAvgPool(), FRAMES),
    "global max pool": Row(jl.GlobalMaxPool(), STEPS),
    "batch norm": Row(jl.BatchNorm(), STEPS),
    "group norm": Row(jl.GroupNorm(2), FRAMES),
    "lstm": Row(jl.LSTM(3), STEPS),
    "gru, reversed": Row(jl.GRU(3, reverse=True), STEPS),
    "simple rnn, last step": Row(jl.SimpleRNN(3, return_sequences=False), STEPS),
    "bidirectional": Row(jl.bidirectional(jl.GRU(3)), STEPS),
    "bidirectional conv": Row(jl.bidirectional(jl.Conv(3, 2, **CAUSAL)), STEPS, full=True),
    "each step, with statistics": Row(
        jl.each_step(jl.serial(jl.Conv(3, 2), jl.BatchNorm(), jl.GlobalAvgPool())),
        FRAMES,
    ),
    "dropout": Row(jl.serial(jl.Dropout(0.5), jl.Dense(3)), STEPS),
    "embedding": Row(jl.Embedding(5, 3), jl.spec((3, 6), jnp.int32)),
    "a function with a pole at zero": Row(jl.serial(jl.Dense(3), jnp.abs, jnp.log), STEPS),
    "branch": Row(jl.branch(a=jl.Dense(3), b=jl.Conv(2, 2, **CAUSAL)), STEPS),
    "merges": Row(
        jl.serial(
            jl.concat(jl.Dense(2), jl.Conv(2, 2, **CAUSAL)),
            jl.residual(jl.multiply(jl.Dense(4), jl.serial(jl.Dense(4), jax.nn.sigmoid))),
        ),
        STEPS,
    ),
    "cross attention": Row(
        jl.compose(
            lambda f, x: f.cross(
                (x, jnp.broadcast_to(f.param("memory", NORMAL, (3, 4)), (x.shape[0], 3, 4)))
            ),
            cross=jl.CrossAttention(2),
        ),
        STEPS,
    ),
    "frame of a signal, causal": Row(jl.Frame(4, strides=3, **CAUSAL), SIGNALS),
    "frame, longer steps than it": Row(jl.Frame(2, strides=4, padding=1), SIGNALS, full=True),
    "frame, centred": Row(jl.Frame(4, strides=3, padding="CENTER"), SIGNALS, full=True),
    "frame, centred, reflected": Row(
        jl.Frame(4, strides=3, padding="CENTER", padding_mode="reflect"), SIGNALS
    ),
    "overlap add, gaps": Row(jl.OverlapAdd(4, **CAUSAL), jl.spec((3, 6, 3)), full=True),
    "stft, causal": Row(
        jl.STFT(4, strides=3, window="hamming", output="real_imag", **CAUSAL), SIGNALS
    ),
    "stft, centred": Row(
        jl.STFT(4, strides=2, window="hamming", output="power", padding="CENTER"),
        SIGNALS,
        full=True,
    ),
    "inverse stft of some length": Row(
        jl.InverseSTFT(4, strides=2, window="hamming", padding="CENTER", length=11),
        jl.spec((3, 6, 6)),
        full=True,
    ),
    "mel spectrogram, causal": Row(
        jl.MelSpectrogram(3, 16.0, 8, strides=2, window="hamming", **CAUSAL), SIGNALS
    ),
    "fir filter, strided": Row(jl.FIRFilter([0.5, -0.3, 0.2], strides=2), SIGNALS),
    "fir filter, same": Row(jl.FIRFilter([0.5, -0.3, 0.2], padding="SAME"), SIGNALS, full=True),
    "iir filter": Row(jl.IIRFilter([0.5, -0.3, 0.2], [1.0, -0.6, 0.1, 0.05]), SIGNALS),
    "resample, fewer": Row(jl.Resample(2, 3, taps=[0.1, 0.5, 1.0, 0.6, 0.2]), SIGNALS),
    "resample, by default": Row(jl.Resample(3, 2), SIGNALS, full=True),
    "repeat": Row(jl.repeat(jl.residual(jl.Conv(4, 2, **CAUSAL)), 2), STEPS),
    "remat": Row(jl.remat(jl.Conv(4, 2, **CAUSAL)), STEPS, full=True),
    "a child twice, parameters, arithmetic": Row(
        jl.compose(
            lambda f, x: (
                x * jnp.broadcast_to(f.param("scale", jax.nn.initializers.normal(), (4,)), x.shape)
                - (1 + f.conv(f.conv(x))) / 2
            ),
            conv=jl.Conv(4, 2, **CAUSAL),
        ),
        STEPS,
    ),
}


# What leads with (batch, space) has no time: a cell takes one step.
NO_TIME = {
    "carried, with state and copies",  # its output holds states too, which are not joined over time
    "batch norm of rows and channels",
    "convolutional gru cell",
    "adaptive average pool",
    "adaptive max pool",
    "adaptive max pool, divisible",
    "max pool with indices, and back",
    "average pool, to the last pixel",  # counts by the length of the longest row: refused
    "convolutional lstm cell",
    "crop",
    "dense over two axes, two of features",
    "drop block",
    "ensemble of inputs",
    "flatten",
    "fold to sizes",
    "local conv",
    "local conv of steps",
    "fractional max pool",
    "grid sample",
    "grid sample, cubic, reflected",
    "pad",
    "pad, reflected",
    "pixel shuffle",
    "pixel unshuffle",
    "rearrange, patches",
    "reshape",
    "resize",
    "roi align",
    "resize by a fraction",
    "resize, cubic, smaller",
    "unit norm of images",
}
OVER_TIME = {
    name: instance
    for name, instance in INSTANCES.items()
    if all(len(leaf.shape) > 2 or leaf.dtype != jnp.float32 for leaf in jax.tree.leaves(instance.x))
    and len({leaf.shape[:2] for leaf in jax.tree.leaves(instance.x)}) == 1
    and name not in NO_TIME
}


# Masks, gradients and blocks are those of a loop over steps (as of lstm, and of a user's cell), of
# a scan of linear steps (min gru), of chunks (gated delta net), of a cache (transformer
# block) and of a layer's child, whatever a combinator does with the child's parameters.
ALIKE = {
    *("gru", "mgu", "simple rnn", "slstm", "ind rnn", "convolutional gru", "sru", "qrnn"),
    *("min lstm", "linear recurrence", "s5", "selective ssm", "mamba", "mamba2"),
    *("mlstm", "linear attention", "latent attention", "tied", "repeat, shared"),
    *("drop_connect", "weight_norm", "spectral_norm", "orthogonalize_weights"),
    *("standardize_weights", "lp pool", "sum pool", "batch renorm"),
}


@pytest.mark.parametrize("name", rows(OVER_TIME, alike=ALIKE))
def test_the_table_minds_its_masks_and_streams(name):
    instance = OVER_TIME[name]
    check_sequence(instance.layer, instance.x)


# As in the table: what is asked of these below is another question.
IN_THE_TABLE = {
    "average pool",
    "batch norm",
    "bidirectional",
    "conv, causal",
    "dropout",
    "embedding",
    "global average pool",
    "global max pool",
    "group norm",
    "gru, reversed",
    "lstm",
    "simple rnn, last step",
    "transposed conv",
}


ALIKE_TOO = {"max pool, dilated, causal", "average pool, inside its stride", "repeat", "merges"}
ALIKE_TOO |= {"mel spectrogram, causal", "a function with a pole at zero", "pool and back"}


@pytest.mark.parametrize("name", rows(LAYERS, without=IN_THE_TABLE, alike=ALIKE_TOO))
def test_a_layer_minds_its_mask_and_streams(name):
    check_sequence(LAYERS[name].layer, LAYERS[name].x)


# Along time these are placed by the length of the batch, not of the row: see TimeWindow.
PLACED_BY_THE_BATCH = {
    "conv, strided, all of it",
    "max pool",
    "conv, more padding than it needs",
    "transposed conv, cropped",
    "inverse stft of some length",
}


# In both tiers one layer of each way to meet a mask.
ALONE = ("lstm", "bidirectional", "conv", "average pool", "global average pool", "batch norm")


@pytest.mark.parametrize(
    "name", named([name for name in LAYERS if name not in PLACED_BY_THE_BATCH], *ALONE)
)
def test_a_row_of_a_batch_is_what_it_is_alone(name):
    layer, spec, _ = LAYERS[name]
    if spec.dtype == jnp.int32:
        x = jnp.arange(18, dtype=jnp.int32).reshape(3, 6) % 5
    else:
        x = jax.random.normal(jax.random.key(0), spec.shape)
    lengths = [4, 0, 6]
    params, state = layer.init(jax.random.key(1), spec)
    y, _ = layer.apply(params, state, jl.Sequence.from_lengths(x, lengths))
    for row, length in enumerate(lengths):
        if not length:
            continue
        alone, _ = layer.apply(params, state, x[row : row + 1, :length])
        for got, expected in zip(
            jax.tree.leaves(y, is_leaf=lambda node: isinstance(node, jl.Sequence)),
            jax.tree.leaves(alone),
            strict=True,
        ):
            if isinstance(got, jl.Sequence):
                assert int(got.lengths[row]) == expected.shape[1]
                assert bool(got.mask[row, : expected.shape[1]].all())
                got = got.values[:, : expected.shape[1]]
            np.testing.assert_allclose(got[row], expected[0], rtol=1e-5, atol=1e-5)


def test_batch_statistics_are_those_of_the_valid_steps():
    x = jax.random.normal(jax.random.key(0), (3, 5, 2))
    mask = jnp.asarray(np.random.default_rng(0).random((3, 5)) < 0.5)
    norm = jl.BatchNorm(momentum=0.5)
    params, state = norm.init(jax.random.key(0), x)
    _, after = norm.apply(params, state, jl.Sequence(x, mask), train=True)
    valid = np.asarray(x)[np.asarray(mask)]
    np.testing.assert_allclose(after["mean"], 0.5 * valid.mean(0), rtol=1e-5)
    np.testing.assert_allclose(after["var"], 0.5 + 0.5 * valid.var(0), rtol=1e-5)
    nothing = jl.Sequence(x, jnp.zeros((3, 5), bool))
    _, unmoved = norm.apply(params, state, nothing, train=True)
    jax.tree.map(np.testing.assert_array_equal, unmoved, state)


def test_the_table_over_time_is_long():
    assert len(OVER_TIME) > 40


@pytest.mark.parametrize("layer", [jl.Flatten(), jl.Reshape((4, -1))])
def test_shapes_of_rows_refuse_sequences(layer):
    with pytest.raises(jl.LayerError, match="padding and steps of a Sequence together"):
        jl.out_spec(layer, jl.Sequence(STEPS))


def _layers(random):
    """One layer of a random model, from four features to four."""
    causal = {"padding": "CAUSAL"}
    leaves = [
        lambda: jl.LSTM(4),
        lambda: jl.GRU(4),
        lambda: jl.SimpleRNN(4),
        lambda: jl.Conv(
            4, int(random.integers(1, 4)), dilation=int(random.integers(1, 3)), **causal
        ),
        lambda: jl.MaxPool(2, strides=1, **causal),
        lambda: jl.SelfAttention(2, causal=True),
        lambda: jl.LayerNorm(),
        lambda: jl.BatchNorm(),
        lambda: jl.serial(jl.Dense(4), jnp.tanh),
    ]
    wrappers = [
        jl.residual,
        lambda layer: jl.repeat(jl.residual(layer), 2),
        jl.remat,
        lambda layer: jl.compose(
            lambda f, x: f.norm(x + f.inner(x)), inner=layer, norm=jl.RMSNorm()
        ),
    ]
    layer = leaves[random.integers(len(leaves))]()
    if random.random() < 0.6:
        layer = wrappers[random.integers(len(wrappers))](layer)
    return layer


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1])
def test_random_models_of_eight_layers(seed):
    random = np.random.default_rng(seed)
    model = jl.serial(*[_layers(random) for _ in range(8)])
    check_sequence(model, jl.spec((2, 4, 4)), seed=seed)


def test_reach_of_combinations():
    conv = jl.Conv(4, 3, padding="CAUSAL")
    assert jl.receptive_field(jl.repeat(conv, 3), STEPS) == jl.ReceptiveField(1, 6, 0)
    assert jl.receptive_field(jl.residual(conv), STEPS) == jl.ReceptiveField(1, 2, 0)
    assert jl.receptive_field(jl.bidirectional(conv), STEPS) == jl.ReceptiveField(1, 2, 2)
    wide = jl.Conv(4, 3)
    assert jl.receptive_field(jl.serial(wide, wide), STEPS) == jl.ReceptiveField(1, 0, 4)
    assert (jl.receptive_field(wide, STEPS).latency, jl.receptive_field(wide, STEPS).size) == (2, 3)
    strided = jl.Conv(4, 2, strides=2, padding="CAUSAL")
    assert jl.receptive_field(
        jl.serial(strided, conv, strided), jl.spec((1, 16, 4))
    ) == jl.ReceptiveField(4, 7, 0)


def test_windows_inside_their_stride_stream():
    semicausal = jl.Conv(4, 5, strides=3, padding=((2, 2),))
    x = jl.spec((2, 6, 4))
    assert jl.receptive_field(semicausal, x) == jl.ReceptiveField(3, 2, 2)
    params, state = semicausal.init(jax.random.key(0), x)
    carry = jl.stream(semicausal).start(params, state, x)
    assert jax.tree.map(jnp.shape, carry) == {"context": (2, 2, 4)}
    pool = jl.Frame(2)
    assert jl.stream(pool).start({}, {}, x) == {}
    whole = jax.eval_shape(lambda x: jl.stream(pool).step({}, {}, {}, x)[0], x)
    assert whole.shape == (2, 3, 2, 4)


@pytest.mark.parametrize(
    "layer",
    [
        jl.repeat(jl.residual(jl.Conv(4, 3, **CAUSAL)), 2),
        jl.residual(jl.serial(jl.SelfAttention(2, causal=True, window=3))),
    ],
)
def test_blocks_of_no_steps(layer):
    """Also under ``carried``, which follows what a body looks ahead to."""
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    none = x[:, :0]
    carried = jl.carried(layer)
    params, state = carried.init(jax.random.key(1), x)
    (_, carry), _ = carried.apply(params, state, x)
    (nothing, after), _ = carried.apply(params, state, (none, carry))
    assert nothing.shape == (2, 0, 4)
    jax.tree.map(np.testing.assert_array_equal, after, carry)


def test_one_layer_in_both_directions():
    """Two layers, also where both are one object; a body that calls a child twice has one."""
    cell, x = jl.GRU(3), jax.random.normal(jax.random.key(0), (2, 4, 3))

    def body(f, x):
        return jnp.concatenate([f.cell(x), jnp.flip(f.cell(jnp.flip(x, 1)), 1)], -1)

    shared, both = jl.compose(body, cell=cell), jl.bidirectional(cell, backward=cell)
    params, _ = shared.init(jax.random.key(1), x)
    own, _ = both.init(jax.random.key(1), x)
    assert not np.array_equal(own["forward"]["kernel"], own["backward"]["kernel"])
    y, _ = both.apply(dict.fromkeys(own, params["cell"]), {}, x)
    np.testing.assert_allclose(shared.apply(params, {}, x)[0], y, rtol=1e-5, atol=1e-6)
    with pytest.raises(jl.LayerError, match="merge must be a layer of two outputs"):
        jl.bidirectional(cell, cell)


def _total(params, state, carry, x, *, key, train):
    """A running sum, whose carry is the sum after the first step of the block: not the last."""
    before = jnp.zeros_like(x.values if isinstance(x, jl.Sequence) else x)[:, 0]
    before = before if carry is None else carry["total"]

    def add(values):
        return jnp.cumsum(values, 1) + jnp.broadcast_to(before[:, None], values.shape)

    y = jl.Sequence(add(x.fill()), x.mask) if isinstance(x, jl.Sequence) else add(x)
    return y, {"total": (y.values if isinstance(y, jl.Sequence) else y)[:, 0]}


FORGETFUL = jl.Layer(
    lambda key, x: ({}, {}),
    lambda params, state, x, *, key, train: (_total({}, {}, None, x, key=key, train=train)[0], {}),
    sequence_mode=jl.SequenceMode("whole", lambda x: jl.ReceptiveField(1, math.inf, 0)),
    stream=jl.StepPair(
        lambda params, state, x, *, capacity: {"total": jnp.zeros((x.shape[0], 3), x.dtype)}, _total
    ),
)


def _centred(values):
    return values - jnp.broadcast_to(values.mean(1, keepdims=True), values.shape)


WRONG = {
    "steps that meet in a function": (
        jl.on_sequence(
            lambda x: (
                jl.Sequence(_centred(x.fill()), x.mask)
                if isinstance(x, jl.Sequence)
                else _centred(x)
            )
        ),
        "12 more steps of padding",
    ),
    "a model that looks ahead and says it does not": (
        jl.Layer(
            lambda key, x: ({}, {}),
            lambda params, state, x, *, key, train: (
                jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0))),
                state,
            ),
            sequence_mode=jl.SequenceMode("per_step"),
        ),
        "sees",
    ),
    "a mask that is forgotten": (
        jl.on_sequence(
            lambda x: jnp.cumsum(x.values if isinstance(x, jl.Sequence) else x, 1).mean(1)
        ),
        "12 more steps of padding",
    ),
    "a carry that is not the last step's": (FORGETFUL, "blocks of"),
}


@pytest.mark.parametrize("name", WRONG)
def test_check_sequence_finds_what_is_wrong(name):
    layer, text = WRONG[name]
    with pytest.raises(AssertionError, match=text):
        check_sequence(layer, jl.spec((2, 4, 3)))


def test_check_sequence_says_what_it_left_out():
    x = jl.spec((2, 4, 3))
    assert check_sequence(jl.GRU(2), x, streams=True) is None
    backwards = jl.GRU(2, reverse=True)
    why = "GRU: cannot be streamed: it reads the sequence from its end"
    assert check_sequence(backwards, x, streams=False) == why
    with pytest.raises(AssertionError, match=why):
        check_sequence(backwards, x, streams=True)
    with pytest.raises(AssertionError, match="it streams, and streams=False says"):
        check_sequence(jl.Dense(2), x, streams=False)


def test_values_from_rows_and_back():
    rows = [np.arange(3.0), np.arange(0.0), np.arange(1.0)]
    x = jl.Sequence.from_rows(rows, length=4)
    assert x.shape == (3, 4)
    assert x.lengths.tolist() == [3, 0, 1]
    for row, values in itertools.zip_longest(rows, x.values):
        np.testing.assert_array_equal(values[: len(row)], row)
    assert x.last().tolist() == [2.0, 0.0, 0.0]
    assert float(x.mean()) == pytest.approx(3 / 4)
    assert x[:, :2].shape == (3, 2)


def test_a_loss_over_valid_steps():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 4))
    labels = jnp.asarray([[1, 2, 3], [0, 0, 0]])

    def loss(logits):
        x = jl.Sequence.from_lengths(logits, [3, 1])
        per_step = x.map(
            lambda z, y: -jnp.take_along_axis(jax.nn.log_softmax(z), y[..., None], -1)[..., 0],
            labels,
        )
        return per_step.mean()

    spoiled = logits.at[1, 1:].set(jnp.nan)
    log = np.asarray(jax.nn.log_softmax(logits))
    picked = [log[0, 0, 1], log[0, 1, 2], log[0, 2, 3], log[1, 0, 0]]
    assert float(loss(spoiled)) == pytest.approx(-np.mean(picked), rel=1e-5)
    gradient = jax.grad(loss)(spoiled)
    assert not gradient[1, 1:].any()
    assert np.isfinite(gradient).all()


def _for_arrays(f, x):
    x = x + f.inner(f.norm(x))
    return x + f.down(jax.nn.gelu(f.up(x)))


def _two_rates(f, x):
    slow = jax.nn.relu(f.slow(x))
    places = f.places(f.positions(slow)).astype(x.dtype)
    return {"slow": slow + places, "fast": f.fast(jnp.tanh(x))}


BODIES = {
    "a block": jl.compose(
        _for_arrays, norm=jl.LayerNorm(), inner=jl.GRU(4), up=jl.Dense(5), down=jl.Dense(4)
    ),
    "two rates": jl.compose(
        _two_rates,
        slow=jl.Conv(4, 2, strides=2, **CAUSAL),
        places=jl.Embedding(9, 4),
        fast=jl.Conv(3, 2, **CAUSAL),
    ),
    "within another": jl.compose(
        lambda f, x: jnp.sin(f.inside(jnp.tanh(x))),
        inside=jl.repeat(
            jl.compose(lambda f, x: jnp.cos(f.conv(x)), conv=jl.Conv(4, 2, **CAUSAL)), 2
        ),
    ),
}


@pytest.mark.parametrize("name", [*full("a block"), "within another"])
def test_a_body_that_was_written_for_arrays_takes_a_sequence(name):
    check_sequence(BODIES[name], jl.spec((2, 4, 4)))


def test_arrays_of_a_body_go_with_the_mask_of_their_steps():
    # Sizes that coincide: as many features as steps, and as many rows as both.
    x = jl.Sequence.from_lengths(jax.random.normal(jax.random.key(0), (4, 4, 4)), [4, 3, 1, 0])
    model = BODIES["two rates"]
    params, state = model.init(jax.random.key(0), x)
    y, _ = model.apply(params, state, x)
    assert y["slow"].lengths.tolist() == [2, 2, 1, 0]
    assert y["fast"].lengths.tolist() == [4, 3, 1, 0]

    def both(f, pair):
        return f.dense(jax.nn.relu(pair[0]) + jax.nn.relu(pair[1]))

    added = jl.compose(both, dense=jl.Dense(2))
    other = jl.Sequence.from_lengths(x.values, [1, 4, 4, 4])
    params, state = added.init(jax.random.key(0), (x, other))
    y, _ = added.apply(params, state, (x, other))
    assert y.lengths.tolist() == [1, 3, 1, 0]


def test_a_row_read_backwards_begins_at_its_end_whatever_follows_it():
    ones = jax.nn.initializers.ones
    both = jl.bidirectional(jl.Conv(1, 1, strides=2, kernel_init=ones), merge=jl.serial())
    params, state = both.init(jax.random.key(0), jl.spec((1, 3, 1)))
    for steps in (3, 4, 5):
        x = jl.Sequence.from_lengths(jnp.arange(1.0, 1.0 + steps).reshape(1, steps, 1), [3])
        (ahead, behind), _ = jax.jit(both.apply)(params, state, x)
        for y, expected in ((ahead, [1.0, 3.0]), (behind, [1.0, 3.0])):
            assert y.fill()[0, :2, 0].tolist() == expected
            assert int(y.lengths[0]) == 2
    pooled = jl.bidirectional(jl.serial(jl.AvgPool(2), jl.LSTM(2)))
    params, state = pooled.init(jax.random.key(0), jl.spec((1, 4, 3)))
    x = jax.random.normal(jax.random.key(1), (1, 4, 3))
    alone, _ = jax.jit(pooled.apply)(params, state, x)
    longer = jl.Sequence.from_lengths(jnp.pad(x, ((0, 0), (0, 3), (0, 0))), [4])
    y, _ = jax.jit(pooled.apply)(params, state, longer)
    np.testing.assert_allclose(y.values[:, :2], alone, rtol=1e-5, atol=1e-6)


def test_each_step_of_each_step():
    frames = jl.spec((2, 3, 4, 5))
    x = jl.Sequence.from_lengths(jax.random.normal(jax.random.key(0), frames.shape), [3, 1])
    for inner in (
        jl.bidirectional(jl.LSTM(2)),
        jl.each_step(jl.Dense(2)),
        jl.compose(lambda f, x: jnp.tanh(f.a(x)), a=jl.Dense(3)),
        jl.concat(jl.Dense(2), jl.Dense(2), axis=1),
    ):
        layer = jl.each_step(inner)
        params, state = layer.init(jax.random.key(1), x)
        y, _ = layer.apply(params, state, x)
        plain, _ = layer.apply(params, state, x.values)
        assert y.mask.tolist() == x.mask.tolist()
        np.testing.assert_allclose(y.values[0], plain[0], rtol=1e-5, atol=1e-6)


BODIES_OF_ARRAYS = {
    "methods": lambda f, x: f.a(x.reshape(x.shape)).astype(x.dtype),
    "operators": lambda f, x: jnp.where(f.a(x) > 0, abs(x), x @ jnp.eye(3, dtype=x.dtype)),
    "a pair of steps and an array": lambda f, x: f.a(jnp.tanh(x) + jnp.ones_like(x)),
}


@pytest.mark.parametrize("name", BODIES_OF_ARRAYS)
def test_what_arrays_can_do_bodies_may_use(name):
    layer = jl.compose(BODIES_OF_ARRAYS[name], a=jl.Dense(3))
    x = jl.Sequence.from_lengths(jax.random.normal(jax.random.key(0), (2, 4, 3)), [4, 2])
    params, state = layer.init(jax.random.key(1), x)
    y, _ = layer.apply(params, state, x)
    plain, _ = layer.apply(params, state, x.values)
    assert y.lengths.tolist() == [4, 2]
    np.testing.assert_allclose(y.values[1, :2], plain[1, :2], rtol=1e-5, atol=1e-6)


def test_reach_there_and_back():
    down, up = jl.Conv(4, 2, strides=2, padding="SAME"), jl.ConvTranspose(4, 2, strides=2)
    net = jl.residual(jl.serial(down, up))
    assert jl.receptive_field(net, jl.spec((1, 8, 4))).stride == 1
    check_sequence(net, jl.spec((2, 8, 4)))
    pair = jl.serial(jl.repeat(jl.parallel(jl.Dense(3), jl.Conv(3, 2, **CAUSAL)), 2), jl.add())
    assert jl.receptive_field(pair, (jl.spec((1, 8, 3)), jl.spec((1, 8, 3)))) == jl.ReceptiveField(
        1, 2, 0
    )


def test_means_of_narrow_floats():
    many = jl.Sequence(jnp.ones((70, 1000), jnp.float16))
    assert float(many.mean()) == 1.0


def test_known_lengths_inside_jit():
    """Arrays that a function closes over: they are checked, and make the mask."""
    x, lengths, wrong = jnp.ones((2, 3, 1)), jnp.asarray([1, 3]), jnp.asarray([1, 4])
    mask = jax.jit(lambda x: jl.Sequence.from_lengths(x, lengths).mask)(x)
    assert mask.tolist() == [[True, False, False], [True, True, True]]
    with pytest.raises(jl.LayerError, match="a length is outside the sequence"):
        jax.jit(lambda x: jl.Sequence.from_lengths(x, wrong).mask)(x)
