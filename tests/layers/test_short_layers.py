"""Layers of a line or two, beside Keras and beside the line written out."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from oracles.convert import lenient

import jlayers as jl

X = np.random.default_rng(0).standard_normal((2, 7, 4))


def of(layer, x=X, params=None):
    return layer.apply(params or {}, {}, jnp.asarray(x, jnp.float32))[0]


@pytest.mark.oracle("Keras")
def test_crop():
    images = np.random.default_rng(1).standard_normal((2, 6, 5, 3)).astype("float32")
    with lenient():
        wanted = keras.layers.Cropping2D(((1, 2), (0, 3)))(images)
    np.testing.assert_allclose(of(jl.Crop(((1, 2), (0, 3))), images), wanted)


@pytest.mark.oracle("a loop")
@pytest.mark.parametrize("steps", [0, 2, 7])
def test_delay_and_lookahead(steps):
    late, early = np.zeros_like(X), np.zeros_like(X)
    for t in range(7):
        if t >= steps:
            late[:, t] = X[:, t - steps]
        if t + steps < 7:
            early[:, t] = X[:, t + steps]
    np.testing.assert_allclose(of(jl.Delay(steps)), late, rtol=1e-6)
    ahead = of(jl.Lookahead(steps))
    np.testing.assert_allclose(ahead, early[:, : ahead.shape[1]], rtol=1e-6)


@pytest.mark.oracle("a loop")
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_downsample(factor):
    wanted = np.stack([X[:, t] for t in range(0, 7, factor)], 1)
    np.testing.assert_allclose(of(jl.Downsample(factor)), wanted, rtol=1e-6)


@pytest.mark.oracle("a loop")
def test_learned_positions():
    layer = jl.PositionEmbedding(9)
    params, _ = layer.init(jax.random.key(0), jnp.zeros((2, 7, 4)))
    (table,) = jax.tree.leaves(params)
    wanted = np.stack([X[:, t] + np.asarray(table)[t] for t in range(7)], 1)
    np.testing.assert_allclose(of(layer, params=params), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.oracle("a loop")
def test_sinusoids():
    """Vaswani et al., 2017, section 3.5, with all sines before the cosines."""
    added = of(jl.SinusoidalPositions(), np.zeros((1, 7, 6)))[0]
    wanted = np.zeros((7, 6))
    for t in range(7):
        for i in range(3):
            angle = t / 10_000 ** (2 * i / 6)
            wanted[t, i], wanted[t, 3 + i] = np.sin(angle), np.cos(angle)
    np.testing.assert_allclose(added, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.oracle("a loop")
@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_graph_pool(reduce):
    rng = np.random.default_rng(2)
    graph = jl.Graph(
        nodes=jnp.asarray(rng.standard_normal((5, 3)), jnp.float32),
        senders=jnp.asarray([0, 1]),
        receivers=jnp.asarray([1, 0]),
        graph_ids=jnp.asarray([0, 0, 1, 1, 1]),
        graph_mask=jnp.ones(2, bool),
    )
    of_graph = getattr(np, reduce)
    wanted = [
        of_graph(np.asarray(graph.nodes)[part], axis=0) for part in (slice(0, 2), slice(2, 5))
    ]
    np.testing.assert_allclose(of_one(jl.GraphPool(reduce), graph), wanted, rtol=1e-5)


def of_one(layer, graph):
    return layer.apply({}, {}, graph)[0]
