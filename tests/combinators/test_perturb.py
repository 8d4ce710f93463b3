"""Gradients of activations, perturbations and patches: against differences and runs by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl

X = jax.random.normal(jax.random.key(0), (3, 4))
BLOCK = jl.residual(jl.serial(jl.Dense(4), jnp.tanh))
MODEL = jl.serial(blocks=jl.repeat(BLOCK, 3), norm=jl.BatchNorm(), head=jl.Dense(2))
PARAMS, STATE = MODEL.init(jax.random.key(1), X)
PATTERNS = ("blocks/body/*", "blocks", "norm")


def near(a, b, **how):
    np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-5} | how)


def text_of(error):
    return str(error.value)


@pytest.mark.parametrize("train", [False, True])
def test_gradients_are_differences_of_perturbations(train):
    def squares(y):
        return jnp.sum(y**2)

    with jax.enable_x64(True):
        x = X.astype(jnp.float64)
        params, state = jax.tree.map(lambda a: a.astype(jnp.float64), (PARAMS, STATE))
        gradients = jl.capture(MODEL, *PATTERNS, what="gradient", of=squares)
        (y, found), new = gradients.apply(params, state, x, train=train)
        plain, expected = MODEL.apply(params, state, x, train=train)
        near(y, plain, rtol=1e-12)
        jax.tree.map(lambda a, b: near(a, b, rtol=1e-12), new, expected)
        perturbed = jl.perturb(MODEL, *PATTERNS)

        @jax.jit
        def value(deltas):
            return squares(perturbed.apply(params, state, (x, deltas), train=train)[0])

        zeros = jax.tree.map(jnp.zeros_like, found)
        assert found["blocks/body/dense"].shape == (3, *X.shape)
        jax.tree.map(lambda a, b: near(a, b, rtol=1e-12), jax.grad(value)(zeros), found)
        rng = np.random.default_rng(0)
        for path, gradient in found.items():
            direction = rng.normal(size=gradient.shape)
            up, down = (value(zeros | {path: sign * 1e-6 * direction}) for sign in (1, -1))
            near((up - down) / 2e-6, np.sum(gradient * direction), rtol=1e-6, atol=1e-9)


def test_a_gradient_of_the_input_of_the_head_by_hand():
    (_, found), _ = jl.capture(MODEL, "norm", what="gradient").apply(PARAMS, STATE, X)
    near(found["norm"], jnp.broadcast_to(PARAMS["head"]["kernel"].sum(1), X.shape))
    looking = jl.capture(MODEL, "blocks", what="gradient", reduce="norm")
    (_, norms), _ = looking.apply(PARAMS, STATE, X)
    (_, found), _ = jl.capture(MODEL, "blocks", what="gradient").apply(PARAMS, STATE, X)
    near(norms["blocks"], jnp.sqrt(jnp.sum(found["blocks"] ** 2, (1, 2))))
    specs = jl.out_spec(looking, X)[1]
    assert specs == {"blocks": jax.ShapeDtypeStruct((3,), jnp.float32)}


def test_gradients_of_a_sequence_are_of_its_steps():
    steps = jax.random.normal(jax.random.key(2), (2, 5, 4))
    x = jl.Sequence.from_lengths(steps, [5, 2])
    model = jl.serial(first=jl.Dense(3), lstm=jl.LSTM(4))
    params, state = model.init(jax.random.key(1), x)
    (y, found), _ = jl.capture(model, "first", what="gradient").apply(params, state, x)
    assert isinstance(found["first"], jl.Sequence)
    assert not np.any(found["first"].values[1, 2:])
    alone = jl.capture(model, "first", what="gradient").apply(params, state, steps[1:, :2])[0][1]
    near(found["first"].values[1, :2], alone["first"][0])
    perturbed = jl.perturb(model, "first")
    z, _ = perturbed.apply(params, state, (x, {"first": jnp.ones((2, 5, 3))}))
    assert np.array_equal(z.mask, y.mask)
    assert not np.allclose(z.fill(), y.fill())


def test_patched_values_are_those_of_the_other_run():
    other = X + 1
    looking, patched = jl.capture(MODEL, "blocks"), jl.patch(MODEL, "blocks", "blocks/body")
    (y, captured), _ = looking.apply(PARAMS, STATE, other)
    apply = jax.jit(lambda *given: patched.apply(PARAMS, STATE, (X, *given))[0])
    near(apply(captured), y)
    last = (jnp.arange(3) == 2)[:, None, None]
    near(apply(captured, {"blocks": last}), y)
    # One row of the second copy: the others go on as they were.
    second, row = (jnp.arange(3) == 1)[:, None, None], (jnp.arange(3) == 0)[None, :, None]
    z = apply(captured, {"blocks": second & row})
    near(z[0], y[0])
    plain, _ = MODEL.apply(PARAMS, STATE, X)
    near(z[1:], plain[1:])
    near(apply({"blocks": None}), plain)
    # The layer inside is patched first.
    near(
        apply({"blocks/body": jnp.zeros((3, *X.shape))}),
        jl.serial(*[MODEL.children[name] for name in ("norm", "head")]).apply(
            {"batch_norm": PARAMS["norm"], "dense": PARAMS["head"]},
            {"batch_norm": STATE["norm"]},
            X,
        )[0],
    )


def test_the_state_is_that_of_the_model():
    x = {"blocks": jnp.zeros((3, *X.shape))}
    for layer in (jl.perturb(MODEL, "blocks"), jl.patch(MODEL, "blocks")):
        params, state = layer.init(jax.random.key(1), (X, {}))
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, PARAMS))
        _, new = layer.apply(params, state, (X, x), train=True)
        assert jax.tree.structure(new) == jax.tree.structure(STATE)
        assert not np.array_equal(new["norm"]["var"], STATE["norm"]["var"])
    # Both at once, and one in the other: each has its own entries.
    both = jl.perturb(jl.perturb(MODEL, "blocks"), "blocks")
    given = ((X, {"blocks": x["blocks"] + 1}), {"blocks": x["blocks"] - 1})
    near(both.apply(PARAMS, STATE, given)[0], MODEL.apply(PARAMS, STATE, X)[0])


def test_values_go_into_wrappers():
    model = jl.serial(
        remat=jl.remat(jl.Dense(4)),
        carried=jl.carried(jl.LSTM(4)),
        norm=jl.parallel(jl.spectral_norm(jl.Dense(4)), lambda carry: carry),
        head=lambda pair: pair[0],
    )
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    params, state = model.init(jax.random.key(1), x)
    gradients = jl.capture(model, "remat", "carried", "norm/dense", what="gradient", of=jnp.mean)
    (_, found), _ = gradients.apply(params, state, x)
    near(found["norm/dense"], jnp.full(x.shape, 1 / x.size))
    ensemble = jl.serial(copies=jl.ensemble(jl.Dense(4), 2))
    params, state = ensemble.init(jax.random.key(1), x)
    delta = jnp.arange(2.0)[:, None, None, None] * jnp.ones((2, *x.shape))
    y, _ = jl.perturb(ensemble, "copies").apply(params, state, (x, {"copies": delta}))
    near(y - ensemble.apply(params, state, x)[0], delta)


def test_errors_of_inputs():
    patched, perturbed = jl.patch(MODEL, "blocks"), jl.perturb(MODEL, "blocks")
    good = {"blocks": jnp.zeros((3, *X.shape))}

    def error_of(layer, given):
        with pytest.raises(jl.LayerError) as error:
            layer.apply(PARAMS, STATE, given)
        return text_of(error)

    text = error_of(perturbed, X)
    assert "perturb: takes its input with values by path" in text
    assert "expected: (x, {path: delta})" in text
    assert "or (x, {path: value}, {path: where})" in error_of(patched, (X, [X]))
    text = error_of(perturbed, (X, {"block": X}))
    assert "no pattern of this perturb fits 'block'" in text
    text = error_of(perturbed, (X, {"head": X}))
    assert "hint:     jl.perturb(model, ..., 'head')" in text
    assert "expected: 'blocks'" in text
    text = error_of(perturbed, (X, {"blocks": X}))
    assert "the delta for 'blocks' does not fit what the layer gives" in text
    assert "expected: float32[3, 3, 4]" in text
    assert "a repeat has an axis of copies in front" in text
    text = error_of(patched, (X, good, {"blocks": jnp.ones((2,), bool)}))
    assert "the where for 'blocks' does not fit its value" in text
    assert "bools that broadcast to float32[3, 3, 4]" in text
    assert "the where for 'blocks' does" in error_of(patched, (X, good, {"blocks": jnp.ones(())}))
    assert "a where for 'blocks', and no value" in error_of(patched, (X, {}, good))
    for layer in (perturbed, patched):
        with pytest.raises(jl.LayerError, match="cannot be streamed: the values that it is given"):
            jl.stream(layer).start(PARAMS, STATE, (X, good))


def test_errors_of_models():
    attend = jl.serial(attend=jl.SelfAttention(2))
    with pytest.raises(jl.LayerError, match="perturb takes outputs of layers, and not values"):
        jl.perturb(attend, "attend:weights")
    with pytest.raises(
        jl.LayerError, match="gradients are of outputs of layers, and not of values"
    ):
        jl.capture(attend, "attend:weights", what="gradient")
    with pytest.raises(jl.LayerError, match="patch: the pattern 'head' fits no layer"):
        jl.patch(attend, "head")
    twice = jl.compose(lambda f, x: f.dense(f.dense(x)), dense=jl.Dense(4))
    for layer, x in (
        (jl.perturb(twice, "dense"), (X, {"dense": X})),
        (jl.capture(twice, "dense", what="gradient"), X),
    ):
        with pytest.raises(jl.LayerError, match="the layer at 'dense' is called 2 times"):
            layer.init(jax.random.key(0), x)
    shared = jl.serial(blocks=jl.repeat(jl.Dense(4), 3, shared=True))
    with pytest.raises(jl.LayerError, match=r"(?s)several copies by one state.*without shared="):
        jl.capture(shared, "blocks", what="gradient").init(jax.random.key(0), X)
    with pytest.raises(jl.LayerError, match=r"(?s)of must return a floating scalar.*\[3, 2\]"):
        jl.capture(MODEL, "blocks", what="gradient", of=lambda y: y).init(jax.random.key(0), X)
    pipeline = jl.serial(blocks=jl.pipeline(jl.Dense(4), 2, 2, 3))
    with pytest.raises(jl.LayerError, match="in a pipeline, which takes parts of the batch"):
        jl.capture(pipeline, "blocks", what="gradient").init(jax.random.key(0), X)


def test_a_layer_that_hands_no_state_to_its_children_is_found_out():
    dense = jl.Dense(4)

    def by_hand(children):
        inner = children["inner"]

        def apply(params, state, x, *, key, train):
            return inner.apply(params["inner"], {}, x)[0], state

        return jl.Layer(
            lambda key, x: ({"inner": inner.init(key, x)[0]}, {}),
            apply,
            children=children,
            rebuild=by_hand,
        )

    model = jl.serial(layer=by_hand({"inner": dense}))
    perturbed = jl.perturb(model, "layer/inner")
    with pytest.raises(jl.LayerError) as error:
        perturbed.init(jax.random.key(0), (X, {"layer/inner": X}))
    assert "the layer at 'layer/inner' gets no value" in text_of(error)
    assert "parents that call their children with their state" in text_of(error)
