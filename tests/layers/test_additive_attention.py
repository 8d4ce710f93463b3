"""Additive attention: Keras' layer without maps, live, and a NumPy loop with them."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert

import jlayers as jl

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
from keras import layers as k

BATCH, STEPS, KEYS, WIDTH = 3, 5, 4, 6


def _drawn(dtype, *shapes):
    numbers = np.random.default_rng(2)
    return [jnp.asarray(numbers.normal(size=shape), dtype) for shape in shapes]


def _gradients(function, weights, inputs):
    def projected(weights, inputs):
        y = function(weights, inputs)
        parts = [jnp.vdot(a, convert.projection(a.shape, a.dtype)) for a in jax.tree.leaves(y)]
        return sum(parts), y

    return jax.jit(jax.grad(projected, (0, 1), has_aux=True))(weights, inputs)


@pytest.mark.oracle("Keras")
@pytest.mark.parametrize("masked", [False, True], ids=["all", "padding"])
def test_keras_s_layer(masked):
    """Theirs has no maps: (query, value, key), and a weight for each feature."""
    inputs = _drawn("float32", (BATCH, STEPS, WIDTH), (BATCH, KEYS, WIDTH), (BATCH, KEYS, 3))
    mask = jnp.asarray(np.arange(KEYS) < np.array([[4], [1], [2]]))
    oracle = k.AdditiveAttention(use_scale=True)
    oracle.build([inputs[0].shape, inputs[2].shape, inputs[1].shape])
    layer = jl.AdditiveAttention(weights=True)

    def theirs(weights, inputs):
        query, keys, values = inputs
        with keras.StatelessScope([(oracle.scale, weights["scale"])]), convert.lenient():
            masks = [None, mask, mask] if masked else None
            return oracle([query, values, keys], mask=masks, return_attention_scores=True)

    def ours(weights, inputs):
        query, keys, values = inputs
        x = (query, jl.Sequence(keys, mask), values) if masked else (query, keys, values)
        return layer.apply(weights, {}, x)[0]

    weights = {"scale": _drawn("float32", (WIDTH,))[0]}
    wanted, got = (_gradients(function, weights, inputs) for function in (theirs, ours))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6),
        got,
        jax.tree.map(jnp.asarray, (wanted[0], tuple(wanted[1]))),
    )


@pytest.mark.oracle("a loop")
def test_a_hidden_layer_and_what_hides_keys():
    with jax.enable_x64(True):
        x, memory = _drawn("float64", (BATCH, STEPS, WIDTH), (BATCH, KEYS, 3))
        bias = _drawn("float64", (BATCH, STEPS, KEYS))[0]
        padding = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]], bool)
        mask = np.random.default_rng(0).random((BATCH, STEPS, KEYS)) < 0.7
        layer = jl.AdditiveAttention(7, weights=True)
        given = {
            "x": x,
            "memory": jl.Sequence(jnp.where(padding[..., None], memory, jnp.nan), padding),
            "mask": jnp.asarray(mask),
            "bias": bias,
        }
        params = convert.draw(jax.eval_shape(layer.init, jax.random.key(0), given)[0])
        (y, weights), _ = jax.jit(layer.apply)(params, {}, given)
        p = {name: np.asarray(value) for name, value in params.items()}
        for b in range(BATCH):
            for t in range(STEPS):
                seen = [s for s in range(KEYS) if padding[b, s] and mask[b, t, s]]
                wanted, of_keys = np.zeros(3), np.zeros(KEYS)
                if seen:
                    hidden = [
                        np.tanh(
                            x[b, t] @ p["query_kernel"] + memory[b, s] @ p["key_kernel"] + p["bias"]
                        )
                        for s in seen
                    ]
                    scores = np.array(hidden) @ p["scale"] + np.asarray(bias)[b, t, seen]
                    of_keys[seen] = np.exp(scores) / np.exp(scores).sum()
                    wanted = of_keys[seen] @ np.asarray(memory)[b, seen]
                np.testing.assert_allclose(weights[b, t], of_keys, rtol=1e-10, atol=1e-14)
                np.testing.assert_allclose(y[b, t], wanted, rtol=1e-10, atol=1e-14)


def test_a_stream_takes_the_memory_with_each_block():
    layer = jl.AdditiveAttention(7)
    x, memory = _drawn("float32", (BATCH, STEPS, WIDTH), (BATCH, KEYS, 3))
    params, state = layer.init(jax.random.key(0), (x, memory))
    y, _ = layer.apply(params, state, (x, memory))
    start, step = jl.stream(layer)
    carry = start(params, state, (x, memory))
    for first, last in ((0, 1), (1, 5)):
        block, carry = step(params, state, carry, (x[:, first:last], memory))
        np.testing.assert_allclose(block, y[:, first:last], rtol=1e-5, atol=1e-6)
