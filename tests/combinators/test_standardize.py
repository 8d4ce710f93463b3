"""Kernels with a mean of 0 and a variance of 1: parameters, gradients, places and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert

import jlayers as jl

X = convert.draw_input((2, 5, 4, 3))


def by_hand(kernel, epsilon):
    """For each output, one after the other."""
    rows = []
    for output in np.moveaxis(np.asarray(kernel, np.float64), -1, 0):
        rows.append((output - output.mean()) / np.sqrt(output.var() + epsilon))
    return np.stack(rows, -1)


@pytest.mark.parametrize(
    "layer",
    [jl.Conv(4, (3, 2)), jl.Conv(6, 3, groups=3, padding="SAME"), jl.Dense(5)],
    ids=repr,
)
def test_it_is_the_layer_with_other_kernels(layer):
    wrapped = jl.standardize_weights(layer, epsilon=1e-3)
    params, state = wrapped.init(jax.random.key(0), X)
    assert jax.tree.structure(params) == jax.tree.structure(layer.init(jax.random.key(0), X)[0])
    own = params | {"kernel": by_hand(params["kernel"], 1e-3).astype(np.float32)}
    np.testing.assert_allclose(
        wrapped.apply(params, state, X)[0], layer.apply(own, state, X)[0], rtol=1e-4, atol=1e-5
    )


def test_gradients_pass_through_it():
    """They have no part along the kernel's mean, nor along the kernel itself."""
    layer = jl.standardize_weights(jl.Conv(4, 3), epsilon=1e-12)
    with jax.enable_x64(True):
        x = X.astype("float64")
        params = convert.draw(layer.init(jax.random.key(0), x)[0])
        params = jax.tree.map(lambda p: jnp.asarray(p, "float64"), params)
        gradient = jax.grad(lambda p: jnp.sum(layer.apply(p, {}, x)[0] ** 3))(params)["kernel"]
        assert np.abs(gradient).max() > 1e-3
        np.testing.assert_allclose(gradient.sum((0, 1, 2)), 0, atol=1e-9)
        np.testing.assert_allclose((gradient * params["kernel"]).sum((0, 1, 2)), 0, atol=1e-6)


def test_a_part_of_a_model():
    model = jl.serial(jl.Conv(4, 3), jax.nn.relu, jl.Flatten(), head=jl.Dense(2))
    params, state = model.init(jax.random.key(0), X)
    wrapped = jl.standardize_weights(model, "conv*/kernel")
    own = params | {
        "conv": params["conv"]
        | {"kernel": by_hand(params["conv"]["kernel"], 1e-5).astype(np.float32)}
    }
    wanted, _ = model.apply(own, state, X)
    np.testing.assert_allclose(wrapped.apply(params, state, X)[0], wanted, rtol=1e-4, atol=1e-5)
    # By a selector of layers, which keeps the head as it is.
    rewritten = jl.rewrite(model, "conv*", jl.standardize_weights)
    np.testing.assert_allclose(rewritten.apply(params, state, X)[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (lambda: jl.standardize_weights(jl.LayerNorm()), "'**/*kernel'"),
        (lambda: jl.standardize_weights(jl.Dense(3), "bias"), "bias has no axis beside that of"),
        (
            lambda: jl.standardize_weights(jl.Dense(3), epsilon=0),
            "epsilon must be a number",
        ),
    ],
    ids=["no kernel", "bias", "epsilon"],
)
def test_refusals(layer, text):
    with pytest.raises(jl.LayerError) as caught:
        layer().init(jax.random.key(0), X)
    assert text in str(caught.value), caught.value
