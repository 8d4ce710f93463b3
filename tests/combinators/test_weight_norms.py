"""weight_norm and spectral_norm: what they start as, whole models, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert

import jlayers as jl

X = convert.draw_input((2, 5, 4, 3))


@pytest.mark.parametrize("layer", [jl.Conv(4, (3, 2)), jl.Einsum("bhwc,cdk->bhwdk", d=2, k=3)])
@pytest.mark.parametrize("axes", [-1, (), (-2, -1)])
def test_weight_norm_starts_as_the_layer(layer, axes):
    wrapped = jl.weight_norm(layer, feature_axes=axes)
    params, state = wrapped.init(jax.random.key(0), X)
    own, _ = layer.init(jax.random.key(0), X)
    wanted, _ = layer.apply(own, {}, X)
    np.testing.assert_allclose(wrapped.apply(params, state, X)[0], wanted, rtol=1e-5, atol=1e-6)
    # The length of a kernel means nothing, and that of its norm everything.
    longer = params | {"kernel": 3 * params["kernel"], "kernel_norm": 2 * params["kernel_norm"]}
    longer["bias"] = params["bias"] * 2 if "bias" in params else None
    longer = {name: leaf for name, leaf in longer.items() if leaf is not None}
    np.testing.assert_allclose(wrapped.apply(longer, state, X)[0], 2 * wanted, rtol=1e-5, atol=1e-6)


def test_spectral_norm_of_a_model():
    model = jl.serial(jl.Conv(4, 3), jl.BatchNorm(), jax.nn.relu, jl.Flatten(), head=jl.Dense(2))
    wrapped = jl.spectral_norm(model, "head/kernel", steps=3)
    params, state = wrapped.init(jax.random.key(0), X)
    own, _ = model.init(jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, own)
    assert sorted(state["head"]) == ["kernel_u", "kernel_v"]
    for _ in range(5):
        _, state = wrapped.apply(params, state, X, train=True)
    largest = jnp.linalg.svd(params["head"]["kernel"], compute_uv=False)[0]
    head = params["head"] | {"kernel": params["head"]["kernel"] / largest}
    y, after = wrapped.apply(params, state, X)
    wanted, _ = model.apply(params | {"head": head}, {"batch_norm": state["batch_norm"]}, X)
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), state, after))


def of_weight_norm(kernel, own, state):
    """The weights of all copies, and the gradients of their parts from that of the weights."""
    norm, length = own["kernel_norm"][:, None], np.sqrt((kernel**2).sum(1, keepdims=True))

    def gradients(of_weight):
        along = (of_weight * kernel).sum(1, keepdims=True) / length
        found = {"kernel_norm": along[:, 0]}
        return found | {"kernel": norm / length * (of_weight - along * kernel / length)}

    return norm * kernel / length, gradients


def of_spectral_norm(kernel, own, state):
    outer = state["kernel_v"][:, :, None] * state["kernel_u"][:, None]
    largest = (kernel * outer).sum((1, 2), keepdims=True)

    def gradients(of_weight):
        along = (of_weight * kernel).sum((1, 2), keepdims=True) / largest
        return {"kernel": (of_weight - along * outer) / largest}

    return kernel / largest, gradients


@pytest.mark.parametrize(
    ("wrap", "by_hand"),
    [(jl.weight_norm, of_weight_norm), (jl.spectral_norm, of_spectral_norm)],
    ids=["weight_norm", "spectral_norm"],
)
def test_values_and_gradients_by_hand(wrap, by_hand):
    deep = jl.repeat(jl.Dense(3), 4)
    with jax.enable_x64(True):
        x = X[0, 0].astype(np.float64)
        params, state = wrap(deep).init(jax.random.key(0), x)
        params = convert.draw(params)
        weight, gradients = by_hand(np.asarray(params["kernel"]), params, state)

        def value_and_grad(layer, params, state):
            def loss(params):
                y, _ = layer.apply(params, state, x)
                return jnp.sum(y**3), y

            gradient, y = jax.grad(loss, has_aux=True)(params)
            return y, gradient

        y, found = value_and_grad(wrap(deep), params, state)
        plain = {"kernel": jnp.asarray(weight), "bias": params["bias"]}
        wanted_y, wanted = value_and_grad(deep, plain, {})
        wanted |= gradients(np.asarray(wanted["kernel"]))
        np.testing.assert_allclose(y, wanted_y, rtol=1e-9, atol=1e-9)
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            np.testing.assert_allclose(found[name], gradient, rtol=1e-9, atol=1e-9, err_msg=name)


def test_a_kernel_of_zeros_stays_zero():
    zeros = jax.nn.initializers.zeros
    for wrap in (jl.weight_norm, jl.spectral_norm):
        layer = wrap(jl.Dense(3, kernel_init=zeros))
        params, state = layer.init(jax.random.key(0), X)
        assert not jnp.any(layer.apply(params, state, X, train=True)[0]), wrap


def test_copies_outside_start_as_their_own_kernels():
    layer = jl.repeat(jl.weight_norm(jl.Dense(3)), 2)
    params, _ = layer.init(jax.random.key(0), X)
    lengths = jnp.linalg.norm(params["kernel"], axis=1)
    np.testing.assert_allclose(params["kernel_norm"], lengths, rtol=1e-6)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda layer: jl.weight_norm(layer, feature_axes=(1,)),
        jl.spectral_norm,
        jl.orthogonalize_weights,
        jl.standardize_weights,
    ],
    ids=["weight_norm", "spectral_norm", "orthogonalize_weights", "standardize_weights"],
)
@pytest.mark.parametrize(
    "copies",
    [
        pytest.param(lambda layer: jl.repeat(layer, 3), id="repeat"),
        pytest.param(
            lambda layer: jl.ensemble(jl.repeat(layer, 1), 2), id="ensemble", marks=pytest.mark.full
        ),
    ],
)
def test_each_copy_makes_its_own_weight(wrap, copies):
    """Around the copies or inside them: parameters, outputs, states and gradients are the same."""
    layer = jl.serial(jl.SelfAttention(1), jl.Conv(3, 2, padding="SAME"))
    outside, inside = wrap(copies(layer)), copies(wrap(layer))
    x = X[0]
    params, state = outside.init(jax.random.key(0), x)
    assert jax.tree.all(
        jax.tree.map(jnp.array_equal, (params, state), inside.init(jax.random.key(0), x))
    )
    params = convert.draw(params)

    def run(layer):
        def loss(params):
            y, after = layer.apply(params, state, x, train=True)
            return jnp.sum(y**3), (y, after)

        gradient, given = jax.grad(loss, has_aux=True)(params)
        return gradient, given

    one, other = run(outside), run(inside)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), one, other)


def test_a_layer_with_an_init_of_its_own():
    layer = jl.stateless(
        lambda key, x: {"kernel": jax.random.normal(key, (x.shape[-1], 2))},
        lambda params, x: x @ params["kernel"],
    )
    params, _ = jl.serial(a=jl.weight_norm(layer)).init(jax.random.key(0), X)
    lengths = jnp.linalg.norm(params["a"]["kernel"], axis=0)
    np.testing.assert_allclose(params["a"]["kernel_norm"], lengths, rtol=1e-6)


@pytest.mark.parametrize("wrap", [jl.weight_norm, jl.spectral_norm, jl.orthogonalize_weights])
@pytest.mark.parametrize(
    ("layer", "pattern", "text"),
    [
        (jl.LayerNorm(), "**/*kernel", "'**/*kernel'"),
        (jl.Dense(3), "bias", "bias has no axis beside that of"),
    ],
)
def test_refusals(wrap, layer, pattern, text):
    with pytest.raises(jl.LayerError) as caught:
        wrap(layer, pattern).init(jax.random.key(0), X)
    assert text in str(caught.value), caught.value


@pytest.mark.parametrize("kernel", [(3, 2), (1, 1), (3, 3)], ids=str)
def test_orthogonalize_weights_starts_as_the_orthogonal_factor(kernel):
    orthogonal = jax.nn.initializers.orthogonal()
    layer = jl.Conv(4, kernel, kernel_init=orthogonal)
    wrapped = jl.orthogonalize_weights(layer)
    params, _ = wrapped.init(jax.random.key(0), X)
    own, _ = layer.init(jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, own)
    y, wanted = (one.apply(p, {}, X)[0] for one, p in ((wrapped, params), (layer, own)))
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
    # A matrix that only begins as a reflection of an axis, and one that is moved.
    layer = jl.orthogonalize_weights(jl.Dense(3, bias=False, kernel_init=jax.nn.initializers.ones))
    params, _ = layer.init(jax.random.key(0), X)
    for shift in (0.0, 1.0):
        moved = jax.tree.map(lambda a, shift=shift: a + shift, params)
        made, _ = layer.apply(moved, {}, jnp.eye(3))
        np.testing.assert_allclose(made.T @ made, jnp.eye(3), atol=1e-5)
    with pytest.raises(jl.LayerError, match="unknown method 'qr'"):
        jl.orthogonalize_weights(jl.Dense(3), method="qr")
    total = jl.summary(layer, X)
    assert [row.parameters for row in total.rows] == [total.parameters]
