"""VectorQuantizer against Haiku's two modules: outputs, losses, gradients and moving averages."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert
from tables.tiers import sample

import jlayers as jl

K, D = 6, 3
X = np.random.default_rng(0).normal(size=(3, 4, 5, D)).astype("float32")


def weighted(y):
    return jnp.sum(y * convert.projection(y.shape, y.dtype))


@pytest.mark.oracle("Haiku")
@pytest.mark.parametrize("commitment", sample([0.25, 1.5]))
def test_against_haiku(commitment):
    module = hk.without_apply_rng(
        hk.transform(lambda x: hk.nets.VectorQuantizer(D, K, commitment)(x, is_training=True))
    )
    with convert.lenient():
        weights = convert.draw(module.init(jax.random.key(0), X[0]))

        def theirs(weights, x):
            made = module.apply(weights, x)
            return weighted(made["quantize"]) + made["loss"], (made["quantize"], made["loss"])

        wanted = jax.jit(jax.value_and_grad(theirs, (0, 1), has_aux=True))(weights, X[0])

    def ours(weights, x):
        params = {"embedding": weights["vector_quantizer"]["embeddings"].T}
        (y, loss), _ = jl.with_losses(jl.VectorQuantizer(K, commitment=commitment)).apply(
            params, {}, x, train=True
        )
        return weighted(y) + loss, (y, loss)

    got = jax.jit(jax.value_and_grad(ours, (0, 1), has_aux=True))(weights, X[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, wanted)


@pytest.mark.oracle("Haiku")
def test_moving_averages_against_haiku():
    def build(x, train):
        return hk.nets.VectorQuantizerEMA(D, K, 0.25, decay=0.9)(x, is_training=train)

    module = hk.without_apply_rng(hk.transform_with_state(build))
    layer = jl.with_losses(jl.VectorQuantizer(K, decay=0.9))
    _, state = layer.init(jax.random.key(0), X[0])
    with convert.lenient():
        _, theirs = module.init(jax.random.key(0), X[0], True)
    run = jax.jit(functools.partial(layer.apply, train=True))
    apply = jax.jit(module.apply, static_argnums=3)
    name = "vector_quantizer_ema"
    state["embedding"] = theirs[name]["embeddings"].T
    for batch in X:
        with convert.lenient():
            made, theirs = apply({}, theirs, batch, True)
        (y, loss), state = run({}, state, batch)
        np.testing.assert_allclose(y, made["quantize"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(loss, made["loss"], rtol=1e-5)
        averages = (
            (state["embedding"].T, theirs[name]["embeddings"]),
            (state["count"], theirs[f"{name}/~/ema_cluster_size"]["hidden"]),
            (state["total"].T, theirs[f"{name}/~/ema_dw"]["hidden"]),
        )
        for ours, other in averages:
            np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-6)
    with convert.lenient():
        made, _ = apply({}, theirs, X[0], False)
    (y, loss), after = jax.jit(layer.apply)({}, state, X[0])
    np.testing.assert_allclose(y, made["quantize"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loss, made["loss"], rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_padding_counts_in_no_loss_and_no_average():
    layer = jl.with_losses(jl.VectorQuantizer(K, decay=0.9))
    _, state = layer.init(jax.random.key(0), X[0])
    mask = np.array([[True] * 5, [True, True, False, False, False], [False] * 5, [True] * 5])
    values = np.where(mask[..., None], X[0], np.nan)
    run = jax.jit(functools.partial(layer.apply, train=True))
    (y, loss), after = run({}, state, jl.Sequence(values, mask))
    (rows, wanted), other = run({}, state, X[0][mask])
    np.testing.assert_allclose(np.asarray(y.values)[mask], rows)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), after, other)
    # Without a vector the averages stay as they are.
    _, kept = run({}, after, jl.Sequence(values, np.zeros_like(mask)))
    jax.tree.map(np.testing.assert_array_equal, kept, after)


def test_averages_over_a_mapped_axis_are_those_of_the_whole_batch():
    layer = jl.VectorQuantizer(K, decay=0.9, axis_name="parts")
    _, state = layer.init(jax.random.key(0), X[0])
    alone = jl.VectorQuantizer(K, decay=0.9)
    _, whole = jax.jit(functools.partial(alone.apply, train=True))({}, state, X[0])

    def part(x):
        return layer.apply({}, state, x, train=True)[1]

    parts = jax.jit(jax.vmap(part, axis_name="parts"))(X[0].reshape(2, 2, 5, D))
    for i in range(2):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6),
            parts,
            whole,
        )
    with pytest.raises(jl.LayerError, match="there is no mapped axis 'parts' here"):
        part(X[0])


def test_ids_give_the_rows_again():
    layer = jl.VectorQuantizer(K)
    params, state = layer.init(jax.random.key(0), X[0])
    y, _ = layer.apply(params, state, X[0])
    ids = jl.core.nearest(jnp.asarray(X[0]), params["embedding"])
    distances = ((X[0][..., None, :] - np.asarray(params["embedding"])) ** 2).sum(-1)
    np.testing.assert_array_equal(ids, distances.argmin(-1))
    rows, _ = jl.Embedding(K, D).apply(params, {}, ids)
    np.testing.assert_array_equal(rows, y)


def test_an_input_of_integers_is_an_error():
    with pytest.raises(jl.LayerError, match="VectorQuantizer: takes floating numbers, got int32"):
        jl.VectorQuantizer(K).init(jax.random.key(0), jl.spec((2, 3), jnp.int32))
