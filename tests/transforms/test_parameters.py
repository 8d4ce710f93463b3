"""freeze, prune, ema and tie: beside NumPy, in copies, in a loop of training, and refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import convert

import jlayers as jl
from jlayers import training, transforms

STEPS = convert.draw_input((2, 5, 4))
IDS = np.array([[0, 3, 5], [2, 2, 1]], np.int32)
DEEP = jl.serial(jl.repeat(jl.residual(jl.serial(jl.Dense(6), jl.Dense(4))), 3), head=jl.Dense(2))


def gradient_of(model, params, state, x=STEPS):
    def loss(params):
        return jnp.sum(model.apply(params, state, x)[0] ** 2)

    return jl.flatten(jax.jit(jax.grad(loss))(params))


def test_freeze():
    model = transforms.freeze(DEEP, ("residual/body/dense/*", "head/bias"))
    params, state = model.init(jax.random.key(0), STEPS)
    params = convert.draw(params)
    wanted, found = gradient_of(DEEP, params, state), gradient_of(model, params, state)
    for path, gradient in wanted.items():
        if path.startswith("residual/body/dense/") or path == "head/bias":
            gradient = np.zeros_like(gradient)
        np.testing.assert_allclose(found[path], gradient, rtol=1e-4, atol=1e-4, err_msg=path)
    # Around LoRA it freezes the kernels alone, inside it what LoRA makes of them.
    tuned = transforms.lora(DEEP, "head/kernel", rank=1)
    params, state = tuned.init(jax.random.key(0), STEPS)
    params = convert.draw(params)
    outside = gradient_of(transforms.freeze(tuned, "head/kernel"), params, state)
    inside = transforms.lora(transforms.freeze(DEEP, "head/kernel"), "head/kernel", rank=1)
    for path, gradient in gradient_of(inside, params, state).items():
        of_head = path.startswith("head/kernel")
        assert bool(gradient.any()) == (not of_head), path
        assert bool(outside[path].any()) == (path != "head/kernel"), path


@pytest.mark.parametrize("each", [False, True])
def test_prune_takes_the_smallest(each):
    model = transforms.prune(DEEP, "**/kernel")
    params, state = model.init(jax.random.key(0), STEPS)
    params = convert.draw(params)
    for sparsity in (0.3, 0.7):
        state = transforms.magnitude_masks(params, state, sparsity, each=each)
    masks = {path.removesuffix("_prune_mask"): mask for path, mask in jl.flatten(state).items()}
    flat = {path: np.asarray(leaf) for path, leaf in jl.flatten(params).items()}
    assert masks.keys() == {path for path in flat if path.endswith("kernel")}
    for group in [[path] for path in masks] if each else [list(masks)]:
        sizes = np.concatenate([np.abs(flat[path]).ravel() for path in group])
        cut = np.sort(sizes)[round(0.7 * sizes.size)]
        for path in group:
            np.testing.assert_array_equal(masks[path], np.abs(flat[path]) >= cut)
    pruned = jl.unflatten({p: np.where(masks.get(p, True), leaf, 0) for p, leaf in flat.items()})
    np.testing.assert_allclose(
        model.apply(params, state, STEPS)[0], DEEP.apply(pruned, {}, STEPS)[0], rtol=1e-4, atol=1e-4
    )
    found, wanted = gradient_of(model, params, state), gradient_of(DEEP, pruned, {})
    for path, gradient in wanted.items():
        kept = np.where(masks.get(path, True), gradient, 0)
        np.testing.assert_allclose(found[path], kept, rtol=1e-4, atol=1e-4, err_msg=path)
    plain, merged, after = transforms.merge(model, params, state)
    assert plain is DEEP
    assert after == {}
    jax.tree.map(np.testing.assert_array_equal, merged, pruned)


def test_pruned_weights_stay_zero_in_training():
    model = transforms.prune(jl.serial(jl.Dense(6), jnp.tanh, jl.Dense(2)))
    params, state = model.init(jax.random.key(0), STEPS)
    state = transforms.magnitude_masks(params, state, 0.5)
    before = jax.tree.map(np.asarray, state)
    step = training.train_step(model, lambda y, _: jnp.mean(y**2), optax.sgd(0.1))
    run = step.start(jax.random.key(1), STEPS, params=params, state=state)
    for _ in range(2):
        run, _ = jax.jit(step)(run, (STEPS, np.zeros(2)))
    jax.tree.map(np.testing.assert_array_equal, run.state, before)
    for path, mask in jl.flatten(before).items():
        path = path.removesuffix("_prune_mask")
        new, old = (np.asarray(jl.flatten(p)[path]) for p in (run.params, params))
        np.testing.assert_array_equal(new[~mask], old[~mask])
        assert (new[mask] != old[mask]).any()


def test_ema_is_the_average_of_the_steps():
    model = transforms.ema(DEEP, 0.75, ("residual/**", "head/kernel"))
    params, state = model.init(jax.random.key(0), STEPS)
    wanted, _ = DEEP.apply(params, {}, STEPS)
    # Before any step, also with parameters of a file, it is the model.
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3)
    near(model.apply(params, state, STEPS)[0], wanted)
    history = [jax.tree.map(lambda p, i=i: p * (i + 1), params) for i in range(3)]
    for now in history:
        y, state = model.apply(now, state, STEPS, train=True)
        near(y, DEEP.apply(now, {}, STEPS)[0])
    weights = 0.25 * 0.75 ** np.arange(2, -1, -1)
    scale = (weights * [1, 2, 3]).sum() / weights.sum()
    average = jax.tree.map(lambda p: p * scale, params)
    average["head"]["bias"] = history[-1]["head"]["bias"]
    wanted, _ = DEEP.apply(average, {}, STEPS)
    y, after = model.apply(history[-1], state, STEPS)
    near(y, wanted)
    jax.tree.map(np.testing.assert_array_equal, after, state)
    plain, merged, rest = transforms.merge(model, history[-1], state)
    np.testing.assert_allclose(plain.apply(merged, rest, STEPS)[0], y, rtol=1e-4, atol=1e-4)

    # Gradients in training are those of the model.
    def loss(layer, state):
        return lambda p: jnp.sum(layer.apply(p, state, STEPS, train=True)[0] ** 2)

    found, wanted = jax.grad(loss(model, state))(params), jax.grad(loss(DEEP, {}))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, wanted)


@pytest.mark.parametrize(
    ("decay", "dtype", "steps"), [(0.999, "bfloat16", 400), (0.999999, "float32", 20)]
)
def test_the_average_of_a_constant_is_that_constant(decay, dtype, steps):
    """Also where a step of the average, or 1 - decay, is below the precision of the weights."""
    stored = transforms.precision(jl.Dense(2, bias=False), transforms.Precision(params=dtype))
    model = transforms.ema(stored, decay)
    x = np.ones((1, 1), np.float32)
    params, state = model.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: jnp.full_like(p, 3.0), params)

    def step(state, _):
        return model.apply(params, state, x, train=True)[1], None

    state, _ = jax.jit(lambda state: jax.lax.scan(step, state, length=steps))(state)
    assert state["kernel_ema"].dtype == np.float32
    np.testing.assert_allclose(model.apply(params, state, x)[0], 3.0, rtol=1e-4)


def test_ema_of_a_weight_that_is_made():
    """Inside another transform it is the average of what that one makes, for each copy."""
    model = transforms.lora(transforms.ema(DEEP, 0.5), "residual/body/dense/kernel", rank=1)
    params, state = model.init(jax.random.key(0), STEPS)
    params = convert.draw(params)
    _, state = model.apply(params, state, STEPS, train=True)
    own = params["residual"]["body"]["dense"]
    made = own["kernel"] + jnp.einsum("nir,nro->nio", own["kernel_lora_a"], own["kernel_lora_b"])
    average = state["residual"]["body"]["dense"]["kernel_ema"]
    np.testing.assert_allclose(average, 0.5 * made, rtol=1e-4, atol=1e-5)
    wanted, _ = model.apply(params, state, STEPS, train=True)
    np.testing.assert_allclose(model.apply(params, state, STEPS)[0], wanted, rtol=1e-4, atol=1e-4)


TIED = jl.serial(jl.Embedding(6, 4), jl.Dense(4), head=jl.Dense(6, bias=False))


def test_tie_uses_one_parameter_twice():
    model = transforms.tie(TIED, {"head/kernel": "embedding/embedding"}, transpose=True)
    params, state = model.init(jax.random.key(0), IDS)
    params = convert.draw(params)
    assert sorted(jl.flatten(params)) == ["dense/bias", "dense/kernel", "embedding/embedding"]
    table = params["embedding"]["embedding"]
    whole = params | {"head": {"kernel": table.T}}
    np.testing.assert_allclose(
        model.apply(params, state, IDS)[0], TIED.apply(whole, {}, IDS)[0], rtol=1e-4, atol=1e-4
    )
    found, both = (gradient_of(m, p, {}, IDS) for m, p in ((model, params), (TIED, whole)))
    both["embedding/embedding"] += both.pop("head/kernel").T
    for path, gradient in both.items():
        np.testing.assert_allclose(found[path], gradient, rtol=1e-4, atol=1e-4, err_msg=path)
    plain, merged, _ = transforms.merge(model, params, state)
    assert plain is TIED
    jax.tree.map(np.testing.assert_array_equal, merged, whole)
    # The tables of parameters and of the summary have it once.
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert jl.parameters(model, IDS).keys() == set(jl.flatten(params))
    assert jl.summary(model, IDS).parameters == count
    # Around it, what others make of the parameter is used twice.
    tuned = transforms.lora(model, "embedding/embedding", rank=1)
    params, state = tuned.init(jax.random.key(0), IDS)
    params = convert.draw(params)
    own = params["embedding"]
    table = own["embedding"] + own["embedding_lora_a"] @ own["embedding_lora_b"]
    whole = {
        "embedding": {"embedding": table},
        "dense": params["dense"],
        "head": {"kernel": table.T},
    }
    np.testing.assert_allclose(
        tuned.apply(params, state, IDS)[0], TIED.apply(whole, {}, IDS)[0], rtol=1e-4, atol=1e-5
    )


def test_tie_in_copies():
    body = jl.repeat(jl.serial(a=jl.Dense(4), b=jl.Dense(4)), 2)
    model = transforms.tie(body, {"b/kernel": "a/kernel", "b/bias": "a/bias"})
    params, _ = model.init(jax.random.key(0), STEPS)
    params = convert.draw(params)
    wanted, _ = body.apply({"a": params["a"], "b": params["a"]}, {}, STEPS)
    np.testing.assert_allclose(model.apply(params, {}, STEPS)[0], wanted, rtol=1e-4, atol=1e-4)


def test_merge_at_any_depth():
    """Inside copies, one and several of them, beside what is not transformed."""
    normed = jl.weight_norm(jl.Dense(4))
    model = jl.serial(
        a=jl.repeat(jl.residual(normed), 3),
        b=jl.ensemble(jl.repeat(transforms.lora(normed, rank=1), 1), 2),
        c=jl.Dense(2),
    )
    plain = jl.serial(
        a=jl.repeat(jl.residual(jl.Dense(4)), 3),
        b=jl.ensemble(jl.repeat(jl.Dense(4), 1), 2),
        c=jl.Dense(2),
    )
    params, state = model.init(jax.random.key(0), STEPS)
    params = convert.draw(params)
    merged, new, after = transforms.merge(model, params, state)
    assert repr(merged) == repr(plain)
    assert merged.children["c"] is model.children["c"]
    wanted, _ = model.apply(params, state, STEPS)
    np.testing.assert_allclose(plain.apply(new, after, STEPS)[0], wanted, rtol=1e-4, atol=1e-5)


def doubled(lazy_weights):
    def apply(params, state, x, *, key, train):
        return 2 * jl.core.dense(x, params["kernel"]), state

    return jl.Layer(
        lambda key, x: ({"kernel": jax.random.normal(key, (4, 3))}, {}),
        apply,
        lazy_weights=lazy_weights,
    )


def test_a_layer_that_takes_weights_as_they_are():
    taking, given = (transforms.lora(doubled(names), rank=1) for names in (("kernel",), ()))
    params, state = taking.init(jax.random.key(0), STEPS)
    params = convert.draw(params)
    y, wanted = (layer.apply(params, state, STEPS)[0] for layer in (taking, given))
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(jl.LayerError, match="lazy_weights must be a tuple of names, got 'kernel'"):
        doubled("kernel")


TWO = jl.serial(a=jl.Dense(4), b=jl.Dense(3))


@pytest.mark.parametrize(
    ("make", "texts"),
    [
        (lambda: transforms.freeze(TWO, "c/**"), ["'c/**' fits no path", "a/kernel"]),
        (lambda: transforms.prune(TWO, ("a/kernel", "c")), ["'c' fits no path"]),
        (lambda: transforms.ema(TWO, 1.0), ["decay", "less than 1"]),
        (lambda: transforms.ema(TWO, -0.1), ["decay"]),
        (lambda: transforms.ema(transforms.ema(TWO)), ["is there already"]),
        (lambda: transforms.tie(TWO, {}), ["must be a dict of paths"]),
        (lambda: transforms.tie(TWO, {"a/kernel": "c/kernel"}), ["path 'c/kernel' fits no path"]),
        (
            lambda: transforms.tie(TWO, {"b/bias": "*/kernel"}),
            ["'*/kernel' is a pattern", "'a/kernel'"],
        ),
        (
            lambda: transforms.tie(TWO, {"a/kernel": "b/kernel"}),
            ["'b/kernel' cannot be used for 'a/kernel'", "float32[4, 4]", "float32[4, 3]"],
        ),
        (
            lambda: transforms.tie(
                jl.serial(a=jl.Dense(3), b=jl.Dense(4)), {"a/kernel": "b/kernel"}
            ),
            ["hint", "transpose=True"],
        ),
        (
            lambda: transforms.tie(TWO, {"a/bias": "b/bias"}, transpose=True),
            ["'b/bias' has no two axes"],
        ),
        (
            lambda: transforms.tie(TWO, {"a/bias": "b/bias", "b/bias": "a/bias"}),
            ["'a/bias' cannot be 'b/bias', which is another one itself"],
        ),
    ],
)
def test_refusals(make, texts):
    with pytest.raises(jl.LayerError) as caught:
        make().init(jax.random.key(0), STEPS)
    for text in texts:
        assert text in str(caught.value), caught.value


@pytest.mark.parametrize(
    "wrap",
    [
        lambda layer: transforms.lora(layer, rank=1),
        transforms.prune,
        transforms.ema,
        transforms.quantize,
        lambda layer: transforms.tie(layer, {"a/bias": "b/bias"}),
    ],
)
def test_merge_refuses_what_is_not_of_the_model(wrap):
    """Parameters from before the transform, and a state that was left out."""
    model = wrap(jl.serial(a=jl.Dense(4), b=jl.Dense(4)))
    params, _ = model.init(jax.random.key(0), STEPS)
    params = jl.unflatten(
        {
            path: leaf
            for path, leaf in jl.flatten(params).items()
            if "lora" not in path and path != "b/bias"
        }
    )
    with pytest.raises(jl.LayerError, match="params and state are not those of the model") as found:
        transforms.merge(model, params, {})
    assert "none of" in str(found.value)


def test_refusals_of_functions():
    params, state = transforms.prune(TWO).init(jax.random.key(0), STEPS)
    for call, text in [
        (lambda: transforms.magnitude_masks(params, state, 1.5), "sparsity"),
        (lambda: transforms.magnitude_masks(params, {}, 0.5), "the state has no masks"),
        (
            lambda: transforms.magnitude_masks(TWO, params, state, 0.5),
            r"(?s)the model is not among them.*expected: magnitude_masks\(params, state, spars",
        ),
        (lambda: transforms.magnitude_masks(params, state, 0.5, "a/bias"), "'a/bias' fits no path"),
        (lambda: transforms.merge(TWO, *TWO.init(jax.random.key(0), STEPS)), "merge once"),
    ]:
        with pytest.raises(jl.LayerError, match=text):
            call()
