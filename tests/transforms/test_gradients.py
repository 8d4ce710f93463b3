"""Gradients clipped, stopped and recomputed by path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl
from jlayers import testing, transforms

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (3, 4))
NET = jl.serial(a=jl.Dense(5), act=jnp.tanh, b=jl.Dense(4))


def clipped_norm(ct, bound):
    norm = np.sqrt(np.sum(np.square(ct), tuple(range(1, ct.ndim)), keepdims=True))
    return ct * np.minimum(1, bound / np.maximum(norm, 1e-30))


CLIPS = {
    "norm": lambda ct: clipped_norm(ct, 0.3),
    "value": lambda ct: np.clip(ct, -0.3, 0.3),
}


@pytest.mark.parametrize("how", CLIPS)
def test_what_enters_a_layer_is_clipped_and_no_more(how):
    model = transforms.clip_gradients(NET, "a", **{how: 0.3})
    params, state = model.init(KEY, X)
    weights = jax.random.normal(jax.random.key(2), (3, 4))

    def loss(model):
        return lambda params, x: jnp.sum(weights.astype(x.dtype) * model.apply(params, state, x)[0])

    np.testing.assert_array_equal(model.apply(params, state, X)[0], NET.apply(params, state, X)[0])
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, "float64"), (params, X))
        grads, of_x = jax.jit(jax.grad(loss(model), (0, 1)))(*wide)
        plain, _ = jax.grad(loss(NET), (0, 1))(*wide)
        (p, x), w = wide, np.asarray(weights, "float64")
        hidden = np.tanh(x @ p["a"]["kernel"] + p["a"]["bias"])
        ct = CLIPS[how]((w @ p["b"]["kernel"].T) * (1 - hidden**2))
        np.testing.assert_allclose(grads["a"]["kernel"], x.T @ ct, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(of_x, ct @ p["a"]["kernel"].T, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(grads["b"]["kernel"], plain["b"]["kernel"], rtol=1e-12)
        assert not np.allclose(grads["a"]["kernel"], plain["a"]["kernel"], rtol=1e-3)
        # Forward mode is that of the model.
        tangents = jax.tree.map(np.ones_like, wide)
        ours, theirs = (jax.jvp(loss(one), wide, tangents) for one in (model, NET))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        # Each example by itself, as under vmap.
        each = jax.vmap(lambda x, w: jax.grad(
            lambda x: jnp.sum(w[None] * model.apply(p, state, x[None])[0])
        )(x))(x, w)  # fmt: skip
        np.testing.assert_allclose(each, of_x, rtol=1e-9, atol=1e-12)


def test_a_bound_that_is_not_reached_changes_no_derivative():
    # Hessians too: all laws hold.
    model = transforms.clip_gradients(NET, "**", norm=1e6)
    assert repr(model).startswith("clip_gradients(\n    serial(\n        a=clip_gradients(Dense(5)")
    testing.check_layer(model, jl.spec((3, 4)))


def test_copies_of_a_repeat_and_steps_of_a_stream_are_clipped():
    deep = transforms.clip_gradients(jl.repeat(jl.residual(jl.Dense(4)), 3), "body", value=0.1)
    assert repr(deep) == "repeat(residual(clip_gradients(Dense(4), value=0.1)), 3)"
    params, state = deep.init(KEY, X)

    def by_hand(params, x):
        ct, kernels = np.ones((3, 4)), np.asarray(params["body"]["kernel"])
        grads = []
        for i in reversed(range(3)):
            own = np.clip(ct, -0.1, 0.1)
            grads.append(own.sum(0))
            ct = ct + own @ kernels[i].T
        return np.stack(grads[::-1]), ct

    grads, of_x = jax.grad(lambda p, x: deep.apply(p, state, x)[0].sum(), (0, 1))(params, X)
    biases, ct = by_hand(params, X)
    np.testing.assert_allclose(grads["body"]["bias"], biases, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_x, ct, rtol=1e-4, atol=1e-5)
    model = transforms.clip_gradients(jl.serial(jl.GRU(3)), "gru", norm=0.1)
    x = jax.random.normal(KEY, (2, 5, 4))
    params, state = model.init(KEY, x)
    start, step = jl.stream(model)
    y, _ = step(params, state, start(params, state, x), x)
    np.testing.assert_allclose(y, model.apply(params, state, x)[0], rtol=1e-5, atol=1e-5)


def test_large_and_zero_gradients_have_a_norm():
    model = transforms.clip_gradients(jl.serial(jnp.negative), "negative", norm=1.0)

    def of_x(factor):
        return jax.grad(lambda x: jnp.sum(factor * model.apply({}, {}, x)[0]))(X)

    # The squares of these are beyond float32.
    np.testing.assert_allclose(of_x(1e30), -np.full((3, 4), 0.5), rtol=1e-5)
    np.testing.assert_array_equal(of_x(0.0), np.zeros((3, 4)))
    half = jax.grad(lambda x: model.apply({}, {}, x)[0].sum())(X.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_no_gradient_passes_a_stopped_output():
    model = transforms.stop_gradient(jl.serial(jl.BatchNorm(), *NET.children.values()), "dense")
    params, state = model.init(KEY, X)

    def loss(params, x):
        y, after = model.apply(params, state, x, train=True)
        return jnp.sum(y**2), after

    grads, after = jax.grad(loss, has_aux=True)(params, X)
    zero = {name: not any(np.any(leaf) for leaf in grads[name].values()) for name in grads}
    assert zero == {"batch_norm": True, "dense": True, "dense_1": False}
    # The statistics of training go on.
    assert not np.allclose(after["batch_norm"]["mean"], state["batch_norm"]["mean"])
    assert repr(transforms.stop_gradient(jl.Dense(3))) == "stop_gradient(Dense(3))"
    sequence = jl.Sequence.from_lengths(jnp.ones((2, 3, 4)), jnp.array([3, 1]))
    stopped = transforms.stop_gradient(jl.serial(jl.GRU(2)))
    params, state = stopped.init(KEY, sequence)
    y, _ = stopped.apply(params, state, sequence)
    assert y.mask.tolist() == sequence.mask.tolist()


def test_checkpoints_by_path():
    block = jl.residual(jl.serial(jl.Dense(4), jnp.tanh))
    model = jl.serial(a=block, blocks=jl.repeat(block, 3), pipe=jl.pipeline(block, 2, 2, 1))
    kept = transforms.gradient_checkpoint(model, "*", policy=jax.checkpoint_policies.dots_saveable)
    text = "jax.checkpoint_policies.dots_saveable"
    assert f"a=remat(residual(serial(Dense(4), jax.nn.tanh)), {text})" in repr(kept)
    assert repr(kept).count(text) == 3
    assert "pipeline(\n" in repr(kept)
    assert list(dict(jl.walk(kept))) == list(dict(jl.walk(model)))
    x = jnp.ones((3, 4))
    params, state = kept.init(KEY, x)

    def grads(model):
        return jax.grad(lambda p: jnp.sum(model.apply(p, state, x)[0] ** 2))(params)

    for a, b in zip(jax.tree.leaves(grads(kept)), jax.tree.leaves(grads(model)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    whole = transforms.gradient_checkpoint(model)
    assert whole.maker == "remat"
    assert transforms.gradient_checkpoint(whole) is whole
    # A loop inside another wrapper, and one that a factory hides.
    mixed = transforms.precision(jl.serial(blocks=jl.repeat(block, 3)), "mixed")
    inner = transforms.gradient_checkpoint(mixed, "blocks")
    assert "        3,\n" not in repr(mixed)
    assert "3,\n                True,\n" in repr(inner)

    @jl.factory
    def Stack(n):
        return jl.repeat(block, n)

    hidden = transforms.gradient_checkpoint(jl.serial(Stack(3)), "stack")
    assert list(hidden.children) == ["stack"]
    assert "remat" in str(jax.make_jaxpr(jax.grad(lambda x: hidden.apply(
        params_of(hidden), {}, x)[0].sum()))(x))  # fmt: skip


def params_of(model):
    return model.init(KEY, X)[0]
