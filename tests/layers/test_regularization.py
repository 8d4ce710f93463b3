"""Layers of random changes in training: what they draw, held against other libraries and papers."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras

IMAGES = (40, 10, 9, 8)


def trained(layer, x, seed=0):
    y, _ = jax.jit(lambda x: layer.apply({}, {}, x, key=jax.random.key(seed), train=True))(x)
    return np.asarray(y)


def by_keras(layer, x):
    return np.asarray(layer(x, training=True))


@pytest.mark.oracle("Keras")
def test_spatial_dropout_drops_whole_channels():
    y = trained(jl.SpatialDropout(0.25), jnp.ones(IMAGES))
    assert (y == y[:, :1, :1]).all()
    channels = y[:, 0, 0]
    np.testing.assert_allclose(np.unique(channels), [0, 1 / 0.75], rtol=1e-5, atol=1e-6)
    # Each of the 320 channels by itself: five deviations of the share are 0.12.
    assert abs((channels == 0).mean() - 0.25) < 0.12
    theirs = by_keras(keras.layers.SpatialDropout2D(0.25, seed=1), np.ones(IMAGES, "float32"))
    np.testing.assert_allclose(np.unique(y), np.unique(theirs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("whole_channels", [False, True])
@pytest.mark.oracle("Keras")
def test_alpha_dropout_has_the_values_of_keras(whole_channels):
    layer = jl.AlphaDropout(0.3, whole_channels=whole_channels)
    x = np.full(IMAGES, 0.7, "float32")
    y, theirs = trained(layer, x), by_keras(keras.layers.AlphaDropout(0.3, seed=1), x)
    np.testing.assert_allclose(np.unique(y), np.unique(theirs), rtol=1e-5)
    assert (y == y[:, :1, :1]).all() == whole_channels
    assert abs((y == y.min()).mean() - 0.3) < (0.13 if whole_channels else 0.02)


@pytest.mark.parametrize(
    ("layer", "oracle"),
    [
        (jl.GaussianDropout(0.3), keras.layers.GaussianDropout(0.3, seed=1)),
        (jl.GaussianNoise(0.4), keras.layers.GaussianNoise(0.4, seed=1)),
    ],
    ids=["dropout", "noise"],
)
@pytest.mark.oracle("Keras")
def test_gaussian_layers_have_the_moments_of_keras(layer, oracle):
    x = np.full((200, 500), 2.0, "float32")
    y, theirs = trained(layer, x), by_keras(oracle, x)
    # Of 100,000 draws five deviations of the mean are 0.02, of the deviation 0.015.
    np.testing.assert_allclose(y.mean(), theirs.mean(), atol=0.04)
    np.testing.assert_allclose(y.std(), theirs.std(), atol=0.03)


@pytest.mark.parametrize("whole_batch", [False, True])
def test_stochastic_depth_drops_whole_rows(whole_batch):
    layer = jl.StochasticDepth(0.5, whole_batch=whole_batch)
    y = np.stack([trained(layer, jnp.ones((30, 3)), seed) for seed in range(8)])
    assert (y == y[..., :1]).all()
    assert set(np.unique(y)) == {0, 2}
    kept = y[..., 0] > 0
    assert ((kept == kept[:, :1]).all()) == whole_batch
    assert kept.any()
    assert not kept.all()


def test_drop_block_drops_blocks_of_its_size():
    block, x = (3, 2), 1 + np.random.default_rng(0).random(IMAGES, "float32")
    layer = jl.DropBlock(0.2, block)
    y = trained(layer, x)
    dropped = y == 0
    # A pixel is dropped if and only if it lies in a whole block of dropped pixels (the paper's
    # algorithm 1: a mask of blocks, each inside the image).
    covered = np.zeros_like(dropped)
    for i in range(IMAGES[1] - block[0] + 1):
        for j in range(IMAGES[2] - block[1] + 1):
            place = np.s_[:, i : i + block[0], j : j + block[1]]
            covered[place] |= dropped[place].all((1, 2), keepdims=True)
    np.testing.assert_array_equal(covered, dropped)
    # Overlapping blocks drop less than the rate.
    assert 0.12 < dropped.mean() < 0.2
    rows = (1, 2, 3)
    scale = np.prod(IMAGES[1:]) / (~dropped).sum(rows, keepdims=True)
    np.testing.assert_allclose(y, np.where(dropped, 0, x * scale), rtol=1e-5)


def test_a_block_larger_than_the_image_is_an_error():
    with pytest.raises(jl.LayerError, match=r"block_shape \(4, 4\) is larger than the image"):
        trained(jl.DropBlock(0.2, 4), jnp.ones((1, 3, 9, 2)))


@pytest.mark.oracle("Keras")
def test_the_penalty_is_that_of_keras():
    x = np.random.default_rng(0).normal(size=(3, 4, 2)).astype("float32")
    oracle = keras.layers.ActivityRegularization(l1=0.3, l2=0.2)
    oracle(x)
    (y, loss), _ = jl.with_losses(jl.ActivityPenalty(l1=0.3, l2=0.2)).apply({}, {}, x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_allclose(loss, oracle.losses[0], rtol=1e-5, atol=1e-6)


def test_padding_has_no_penalty():
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    mask = np.arange(4) < np.array([[4], [2]])
    layer = jl.with_losses(jl.ActivityPenalty(l2=1.0))
    (_, loss), _ = layer.apply({}, {}, jl.Sequence(jnp.asarray(x).at[1, 2:].set(jnp.nan), mask))
    np.testing.assert_allclose(loss, (x**2 * mask[..., None]).sum() / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        jl.SpatialDropout(0.1),
        jl.AlphaDropout(0.1),
        jl.GaussianDropout(0.1),
        jl.GaussianNoise(0.1),
        jl.DropBlock(0.1, 2),
        jl.StochasticDepth(0.1),
    ],
    ids=repr,
)
def test_a_key_is_needed_in_training_alone(layer):
    x = jnp.ones((2, 3, 3, 4))
    with pytest.raises(jl.LayerError, match=r"needs a key to train and got none"):
        layer.apply({}, {}, x, train=True)
    y, _ = layer.apply({}, {}, x)
    np.testing.assert_array_equal(y, x)


@pytest.mark.oracle("Keras")
@pytest.mark.parametrize("axes", [1, (0, -2)], ids=str)
def test_shared_axes_are_the_noise_shape_of_keras(axes):
    y = trained(jl.Dropout(0.5, shared_axes=axes), jnp.ones(IMAGES))
    shared = {axis % 4 for axis in (axes if isinstance(axes, tuple) else (axes,))}
    first = tuple(slice(1) if axis in shared else slice(None) for axis in range(4))
    assert (y == y[first]).all()
    for axis in {0, 1, 2, 3} - shared:
        assert np.ptp(y[first], axis).any()
    noise = tuple(1 if axis in shared else size for axis, size in enumerate(IMAGES))
    theirs = by_keras(keras.layers.Dropout(0.5, noise, seed=1), np.ones(IMAGES, "float32"))
    assert (theirs == theirs[first]).all()
    assert abs((y == 0).mean() - (theirs == 0).mean()) < 0.2


def test_drop_connect_drops_weights():
    layer = jl.drop_connect(jl.Dense(40), 0.25)
    params, _ = layer.init(jax.random.key(0), jl.spec((50, 50)))
    params["bias"] = jnp.arange(40.0)
    weights = trained_with(layer, params, jnp.eye(50)) - np.arange(40.0)
    kept = np.isclose(weights, np.asarray(params["kernel"]) / 0.75, atol=1e-5)
    dropped = weights == 0
    assert (kept | dropped).all()
    assert abs(dropped.mean() - 0.25) < 0.05
    # All rows have the same weights, and evaluation has all of them.
    y = trained_with(layer, params, jnp.ones((3, 50)))
    np.testing.assert_array_equal(y, np.broadcast_to(y[:1], y.shape))
    wanted, _ = jl.Dense(40).apply(params, {}, jnp.ones((3, 50)))
    np.testing.assert_array_equal(layer.apply(params, {}, jnp.ones((3, 50)))[0], wanted)


def test_drop_connect_of_the_recurrent_kernel():
    """One draw for all steps; the first step, which has no previous one, is as it was."""
    plain = jl.SimpleRNN(6)
    layer = jl.drop_connect(plain, 0.5, "**/recurrent_kernel")
    x = jax.random.normal(jax.random.key(1), (2, 4, 3))
    params, _ = layer.init(jax.random.key(0), x)
    y, (wanted, _) = trained_with(layer, params, x), plain.apply(params, {}, x)
    np.testing.assert_allclose(y[:, 0], wanted[:, 0], rtol=1e-5, atol=1e-6)
    assert not np.allclose(y[:, 1], wanted[:, 1])
    # Which weights are left is seen in the step from a known state.
    key = jax.random.key(0)
    start, step = jl.stream(layer)
    carry = start(params, {}, x)
    parts = []
    for i in range(4):
        part, carry = step(params, {}, carry, x[:, i : i + 1], key=key, train=True)
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts, 1), y, rtol=1e-5, atol=1e-6)


def test_errors_of_drop_connect():
    layer = jl.drop_connect(jl.Dense(3), 0.5)
    params, _ = layer.init(jax.random.key(0), jl.spec((2, 4)))
    with pytest.raises(jl.LayerError, match="needs a key to train and got none"):
        layer.apply(params, {}, jnp.ones((2, 4)), train=True)
    with pytest.raises(jl.LayerError, match=r"'\*\*/kernle' fits no path"):
        jl.drop_connect(jl.Dense(3), 0.5, "**/kernle").init(jax.random.key(0), jl.spec((2, 4)))
    with pytest.raises(jl.LayerError, match="rate must be a number from 0 to 1, got 2"):
        jl.drop_connect(jl.Dense(3), 2)


def trained_with(layer, params, x):
    return np.asarray(layer.apply(params, {}, x, key=jax.random.key(0), train=True)[0])


@pytest.mark.parametrize(
    "layer",
    [
        jl.Dropout(1),
        jl.SpatialDropout(1.0),
        jl.StochasticDepth(1),
        jl.drop_connect(jl.Affine(), 1.0, "**"),
    ],
    ids=repr,
)
def test_a_rate_of_one_drops_all(layer):
    """As in PyTorch, Keras and Flax; gradients are zero, and not NaN."""
    x = jnp.ones((2, 3, 3, 4))
    params, state = layer.init(jax.random.key(0), x)

    def total(params, x):
        return jnp.sum(layer.apply(params, state, x, key=jax.random.key(1), train=True)[0])

    value, slopes = jax.value_and_grad(total, (0, 1))(params, x)
    assert value == 0
    for slope in jax.tree.leaves(slopes):
        assert not np.any(slope)
    assert np.any(layer.apply(params, state, x)[0])


@pytest.mark.parametrize(
    "layer",
    [
        jl.Dropout(0.4),
        jl.SpatialDropout(0.4),
        jl.AlphaDropout(0.4),
        jl.GaussianDropout(0.4),
        jl.GaussianNoise(0.4),
        jl.DropBlock(0.4, 2),
        jl.StochasticDepth(0.4),
    ],
    ids=repr,
)
def test_other_dtypes(layer):
    """Complex numbers, and half precision near to its own mean and share dropped."""
    x = jnp.full((8, 40, 40, 4), 1 + 2j, jnp.complex64)
    y = trained(layer, x)
    assert y.dtype == np.complex64
    assert np.isfinite(y).all()
    if not isinstance(layer, jl.Layer) or layer.kind not in ("alpha_dropout", "gaussian_noise"):
        np.testing.assert_allclose(y.imag, 2 * y.real, rtol=1e-5, atol=1e-5)
    real = trained(layer, jnp.ones(x.shape))
    for dtype in (jnp.bfloat16, jnp.float16):
        half = trained(layer, jnp.ones(x.shape, dtype)).astype("float32")
        np.testing.assert_allclose(half.mean(), real.mean(), rtol=0.05, atol=0.02)
        np.testing.assert_allclose((half == 0).mean(), (real == 0).mean(), atol=0.05)


def test_drop_block_of_images_without_a_size():
    layer = jl.DropBlock(0.3, 2)
    sizes = jax.export.symbolic_shape("batch, height, width, 4")

    def drop(key, x):
        return layer.apply({}, {}, x, key=jax.random.wrap_key_data(key), train=True)[0]

    key = jax.random.key_data(jax.random.key(0))
    spec = jax.ShapeDtypeStruct(sizes, jnp.float32)
    exported = jax.export.export(jax.jit(drop))(jax.ShapeDtypeStruct(key.shape, key.dtype), spec)
    x = jnp.ones((2, 9, 7, 4))
    np.testing.assert_allclose(exported.call(key, x), drop(key, x), rtol=1e-5, atol=1e-6)
