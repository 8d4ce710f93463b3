"""Evaluation mode by path, and losses that layers add from inside."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jlayers as jl
from jlayers import training

X = jax.random.normal(jax.random.key(0), (6, 4))
MODEL = jl.serial(encoder=jl.serial(jl.Dense(8), jl.BatchNorm(), jl.Dropout(0.5)), head=jl.Dense(3))


def test_a_part_in_evaluation_mode_is_that_part_in_evaluation():
    model = jl.inference(MODEL, "encoder")
    params, state = model.init(jax.random.key(1), X)
    y, after = jax.jit(model.apply, static_argnames="train")(params, state, X, train=True)
    np.testing.assert_allclose(y, MODEL.apply(params, state, X)[0], rtol=1e-5, atol=1e-6)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(old, new)
    assert [path for path, _ in jl.walk(model)] == [
        "", "encoder", "encoder", "encoder/dense", "encoder/batch_norm", "encoder/dropout", "head"
    ]  # fmt: skip
    assert repr(model).startswith("serial(encoder=inference(serial(Dense(8)")


def test_monte_carlo_dropout_draws_in_evaluation_and_keeps_the_state():
    model = jl.inference(MODEL, "**/dropout", train=True)
    params, state = model.init(jax.random.key(1), X)
    one, same_state = model.apply(params, state, X, key=jax.random.key(2))
    other, _ = model.apply(params, state, X, key=jax.random.key(3))
    assert not np.allclose(one, other)
    assert same_state == state
    with pytest.raises(jl.LayerError, match="Dropout at 'encoder/dropout': needs a key"):
        model.apply(params, state, X)
    # A mode inside another one is kept; the rest of the outer part is in evaluation.
    outer = jl.inference(model)
    again, _ = outer.apply(params, state, X, key=jax.random.key(2), train=True)
    np.testing.assert_allclose(again, one, rtol=1e-5, atol=1e-6)


def test_a_mode_streams():
    model = jl.serial(jl.inference(jl.serial(jl.LSTM(3), jl.BatchNorm())), jl.Dense(2))
    x = jax.random.normal(jax.random.key(0), (2, 5, 4))
    params, state = model.init(jax.random.key(1), x)
    start, step = jl.stream(model)
    first, carry = step(params, state, start(params, state, x), x[:, :2])
    rest, _ = step(params, state, carry, x[:, 2:])
    whole, _ = model.apply(params, state, x, train=True)
    np.testing.assert_allclose(jnp.concatenate([first, rest], 1), whole, rtol=1e-5, atol=1e-6)


def test_a_pattern_for_no_layer_is_told():
    with pytest.raises(jl.LayerError) as caught:
        jl.inference(MODEL, "decoder")
    assert "inference: the pattern 'decoder' fits no layer" in str(caught.value)
    assert "encoder, encoder/dense" in str(caught.value)


def penalised(f, x):
    y = f.dense(x)
    f.add_loss(0.1 * jnp.mean(x**2))
    return y


BLOCK = jl.compose(penalised, dense=jl.Dense(4))


def by_hand(params, x, copies):
    """The sum of what ``copies`` blocks in sequence add."""
    total = 0.0
    for i in range(copies):
        total += 0.1 * jnp.mean(x**2)
        x = x @ params["dense"]["kernel"][i] + params["dense"]["bias"][i, None]
    return total


@pytest.mark.parametrize("remat", [None, True])
def test_losses_of_repeated_layers_and_their_gradients(remat):
    model = jl.with_losses(jl.repeat(BLOCK, 3, remat=remat))
    params, state = model.init(jax.random.key(1), X)

    def loss(params):
        return model.apply(params, state, X, train=True)[0][1]

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    expected, by_params = jax.value_and_grad(by_hand)(params, X, 3)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(by_params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


WRAPPED = {
    "alone": (BLOCK, 1),
    "remat": (jl.remat(BLOCK), 1),
    "ensemble": (jl.ensemble(BLOCK, 3), 3),
    "inference": (jl.inference(BLOCK), 1),
    "twice": (jl.compose(lambda f, x: (f.block(x), f.block(x)), block=BLOCK), 2),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_losses_get_out_of_wrappers(name):
    layer, times = WRAPPED[name]
    model = jl.with_losses(layer)
    params, state = model.init(jax.random.key(1), X)
    (y, loss), _ = model.apply(params, state, X)
    np.testing.assert_allclose(loss, times * 0.1 * jnp.mean(X**2), rtol=1e-5, atol=1e-6)
    # Without a collector the layer is what it was.
    assert jax.tree.structure(layer.apply(params, state, X)[0]) == jax.tree.structure(y)
    assert jl.out_spec(model, X)[1] == jax.ShapeDtypeStruct((), jnp.float32)


def test_a_loss_inside_a_transformation_of_the_body_raises():
    model = jl.with_losses(jl.compose(lambda f, x: jax.vmap(f.block)(x[:, None]), block=BLOCK))
    params, state = model.init(jax.random.key(1), X)
    with pytest.raises(jl.LayerError, match=r"(?s)inside a transformation of JAX.*jl.repeat"):
        jax.jit(model.apply)(params, state, X)


def test_a_loss_does_not_read_padding():
    x = jl.Sequence.from_lengths(jnp.ones((2, 5, 4)), [5, 2])

    def padded(f, x):
        y = jnp.tanh(f.dense(x))
        f.add_loss(jnp.mean(y**2))
        return y

    model = jl.compose(padded, dense=jl.Dense(4))
    params, state = model.init(jax.random.key(0), x)
    with pytest.raises(jl.LayerError, match=r"(?s)a loss of the steps and the padding.*map\(...\)"):
        jl.with_losses(model).apply(params, state, x)
    # Nothing collects it here.
    assert model.apply(params, state, x)[0].shape == (2, 5, 4)

    def pooled(f, x):
        y = jnp.tanh(f.dense(x))
        f.add_loss(jnp.mean(f.pool(y) ** 2))
        return y

    def valid(f, x):
        y = f.dense(x)
        f.add_loss(y.map(lambda values: jnp.abs(values).mean(-1)).mean())
        return y

    for body, more in ((pooled, {"pool": jl.GlobalAvgPool()}), (valid, {})):
        model = jl.with_losses(jl.compose(body, dense=jl.Dense(4), **more))
        params, state = model.init(jax.random.key(0), x)
        (_, loss), _ = model.apply(params, state, x)
        (_, same), _ = model.apply(params, state, x._with(x.values.at[1, 2:].set(jnp.nan)))
        np.testing.assert_allclose(loss, same, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("value", "got"), [(jnp.ones(3), "float32[3]"), (jnp.int32(1), "int32[]"), ("a", "'a'")]
)
def test_a_loss_is_a_floating_scalar(value, got):
    def body(f, x):
        f.add_loss(value)
        return x

    with pytest.raises(jl.LayerError) as caught:
        jl.compose(body).init(jax.random.key(0), X)
    assert "compose: add_loss takes a floating scalar" in str(caught.value)
    assert got in str(caught.value)


def test_a_step_and_an_evaluation_collect_them():
    model, x = jl.repeat(BLOCK, 2), np.asarray(X)
    step = training.train_step(model, lambda y: y.mean(), optax.sgd(0.1))
    state = step.start(jax.random.key(0), x)
    added = by_hand(state.params, X, 2)
    _, metrics = jax.jit(step)(state, (x,))
    y, _ = model.apply(state.params, {}, X)
    np.testing.assert_allclose(metrics["added_loss"], added, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], y.mean() + added, rtol=1e-5, atol=1e-6)

    def measure(y, *, added_loss):
        return {"loss": y.mean() + added_loss}

    evaluate = training.make_evaluator(model, measure, [(x,)])
    np.testing.assert_allclose(evaluate(state)["loss"], metrics["loss"], rtol=1e-5, atol=1e-6)
    evaluate = training.make_evaluator(model, lambda y: {"mean": y.mean()}, [(x,)])
    np.testing.assert_allclose(evaluate(state)["added_loss"], added, rtol=1e-5, atol=1e-6)
    fitted = training.fit(step, state, [(x,)], steps=1, progress=False)
    np.testing.assert_allclose(
        fitted.records[0].metrics["loss"], metrics["loss"], rtol=1e-5, atol=1e-6
    )


def test_a_loss_gets_what_it_asks_for():
    model = jl.serial(jl.Dense(3), jl.BatchNorm())

    def loss(y, scale, *, params, state, step, key, added_loss, default=2.0):
        return y.mean() * scale, {
            "norm": optax.tree.norm(params),
            "mean": state["batch_norm"]["mean"].sum(),
            "step": step,
            "drawn": jax.random.uniform(key),
            "none": added_loss,
        }

    step = training.train_step(model, loss, optax.sgd(0.1))
    state = step.start(jax.random.key(0), X)._replace(step=jnp.int32(5))
    new, metrics = step(state, (X, jnp.float32(1)))
    np.testing.assert_allclose(metrics["norm"], optax.tree.norm(state.params), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        metrics["mean"], new.state["batch_norm"]["mean"].sum(), rtol=1e-5, atol=1e-6
    )
    assert (int(metrics["step"]), float(metrics["none"])) == (5, 0)
    assert metrics["drawn"] != step(new, (X, jnp.float32(1)))[1]["drawn"]


def test_a_target_goes_before_what_has_its_name():
    step = training.train_step(jl.Dense(3), lambda y, key: (y * key).mean(), optax.sgd(0.1))
    state = step.start(jax.random.key(0), X)
    assert step(state, (X, jnp.zeros(())))[1]["loss"] == 0


@pytest.mark.parametrize(
    ("frozen", "kept"), [("encoder/**", True), ("encoder/dense/**", False), ("**/bias", False)]
)
def test_a_part_that_is_frozen_is_in_evaluation_mode(frozen, kept):
    step = training.train_step(MODEL, lambda y: y.mean(), optax.sgd(0.1), frozen=frozen)
    state = step.start(jax.random.key(0), X)
    new, metrics = jax.jit(step)(state, (X,))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), state.state, new.state)
    assert all(jax.tree.leaves(same)) == kept
    if kept:
        y, _ = MODEL.apply(state.params, state.state, X)
        np.testing.assert_allclose(metrics["loss"], y.mean(), rtol=1e-5)


@pytest.mark.parametrize("wrap", [lambda layer: jl.repeat(layer, 2), jl.remat])
def test_a_program_that_is_remembered_collects_where_it_is_asked_to(wrap):
    # Without jit the wrappers compile by themselves, and the next call finds the program.
    layer = wrap(BLOCK)
    params, state = layer.init(jax.random.key(1), X)
    plain, _ = layer.apply(params, state, X)
    for _ in range(2):
        (_, loss), _ = jl.with_losses(layer).apply(params, state, X)
        assert loss > 0
        np.testing.assert_array_equal(layer.apply(params, state, X)[0], plain)

    def padded(f, x):
        y = jnp.tanh(f.dense(x))
        f.add_loss(jnp.mean(y**2))
        return y

    # Nothing collects a loss of padding here, inside the wrapper either.
    x = jl.Sequence.from_lengths(jnp.ones((2, 5, 4)), [5, 2])
    layer = wrap(jl.compose(padded, dense=jl.Dense(4)))
    params, state = layer.init(jax.random.key(1), x)
    assert layer.apply(params, state, x)[0].shape == (2, 5, 4)
    with pytest.raises(jl.LayerError, match="a loss of the steps and the padding"):
        jl.with_losses(layer).apply(params, state, x)
