"""lora and dora beside weights that NumPy makes: values, gradients, copies, streams, refusals."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert
from tables.tiers import named

import jlayers as jl
from jlayers import transforms
from jlayers.inspection.taps import recorded

STEPS = convert.draw_input((2, 5, 4))
IDS = np.array([[0, 3, -1], [2, 2, 1]], np.int32)

# Layers that add the product to their output, and layers that are given the sum.
LAYERS = {
    "Dense": (jl.Dense(3), "kernel", STEPS),
    "Dense of two axes": (jl.Dense((2, 3)), "kernel", STEPS),
    "Einsum": (jl.Einsum("btc,cdk->btdk", d=2, k=3), "kernel", STEPS),
    "Conv": (jl.Conv(3, 2), "kernel", STEPS),
    "Embedding": (jl.Embedding(4, 3), "embedding", IDS),
    "SelfAttention": (jl.SelfAttention(2, num_kv_heads=1), "*_kernel", STEPS),
    "LSTM": (jl.LSTM(3), "*kernel", STEPS),
    "a body": (
        jl.compose(lambda f, x: x @ f.param("kernel", jax.nn.initializers.lecun_normal(), (4, 3))),
        "kernel",
        STEPS,
    ),
    "tied": (jl.tied(jl.Embedding(4, 3), jl.Dense(3)), "embedding/embedding", IDS),
    "repeat": (jl.repeat(jl.residual(jl.Dense(4)), 2), "**/kernel", STEPS),
    "ensemble": (jl.ensemble(jl.repeat(jl.Dense(4), 1), 2), "**/kernel", STEPS),
}


def as_matrix(kernel, copies):
    kernel = np.asarray(kernel)
    return kernel.reshape(*kernel.shape[:copies], -1, kernel.shape[-1])


def by_hand(flat, path, scale, name):
    """The weight, and the gradients of its parts from that of the weight."""
    kernel, a, b = (np.asarray(flat[path + end]) for end in ("", f"_{name}_a", f"_{name}_b"))
    norm = flat.get(f"{path}_dora_norm")
    matrix = as_matrix(kernel, a.ndim - 2)
    made = matrix + scale * np.einsum("...ir,...ro->...io", a, b)
    length = np.sqrt(np.sum(made**2, -2, keepdims=True))
    factor = 1 if norm is None else np.asarray(norm)[..., None, :] / length

    def gradients(of_kernel):
        of_made = as_matrix(of_kernel, a.ndim - 2) * factor
        found = {
            path: of_made.reshape(kernel.shape),
            f"{path}_{name}_a": scale * np.einsum("...io,...ro->...ir", of_made, b),
            f"{path}_{name}_b": scale * np.einsum("...ir,...io->...ro", a, of_made),
        }
        if norm is not None:
            direction = as_matrix(of_kernel, a.ndim - 2) * made / length
            found[f"{path}_dora_norm"] = np.sum(direction, -2)
        return found

    return (made * factor).reshape(kernel.shape), gradients


@pytest.mark.parametrize("wrap", [transforms.lora, transforms.dora], ids=["lora", "dora"])
@pytest.mark.parametrize(
    "name", named(LAYERS, "Dense", "Conv", "Embedding", "SelfAttention", "a body", "repeat")
)
def test_it_is_the_layer_with_the_sum(wrap, name):
    layer, pattern, x = LAYERS[name]
    wrapped = wrap(layer, pattern, rank=2, alpha=3.0)
    with jax.enable_x64(True):
        x = x.astype(np.float64) if x.dtype == np.float32 else x
        params, state = wrapped.init(jax.random.key(0), x)
        own, _ = layer.init(jax.random.key(0), x)
        params = convert.draw(jax.tree.map(lambda p: p.astype(np.float64), params))
        flat = jl.flatten(params)
        a = f"_{wrap.__name__}_a"
        paths = [path.removesuffix(a) for path in flat if path.endswith(a)]
        made = {path: by_hand(flat, path, 1.5, wrap.__name__) for path in paths}
        plain = {path: flat[path] for path in jl.flatten(own)}
        plain |= {path: jnp.asarray(kernel) for path, (kernel, _) in made.items()}
        weights = np.random.default_rng(0).normal(size=jl.out_spec(layer, x).shape)

        def value_and_grad(layer, params):
            def loss(params):
                y, _ = layer.apply(params, state, x)
                return jnp.sum(weights * y), y

            (_, y), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
            return y, jl.flatten(gradient)

        y, gradient = value_and_grad(wrapped, params)
        wanted_y, of_plain = value_and_grad(layer, jl.unflatten(plain))
        wanted = dict(of_plain)
        for path, (_, gradients) in made.items():
            wanted |= gradients(of_plain[path])
        np.testing.assert_allclose(y, wanted_y, rtol=1e-9, atol=1e-9)
        assert gradient.keys() == wanted.keys()
        for path, leaf in gradient.items():
            np.testing.assert_allclose(leaf, wanted[path], rtol=1e-9, atol=1e-9, err_msg=path)
        # Merged, it is that layer with those parameters.
        model, merged, after = transforms.merge(wrapped, params, state)
        assert model is layer
        assert after == {}
        for path, leaf in jl.flatten(merged).items():
            np.testing.assert_allclose(leaf, plain[path], rtol=1e-9, atol=1e-9, err_msg=path)
        assert jl.flatten(merged).keys() == plain.keys()


def test_it_starts_as_the_layer():
    """All parameters but the matrices are those of the layer, and so is the output."""
    model = jl.repeat(jl.residual(jl.serial(jl.Dense(6), jl.Dense(4))), 3)
    own, _ = model.init(jax.random.key(0), STEPS)
    wanted, _ = model.apply(own, {}, STEPS)
    for wrap in (transforms.lora, transforms.dora):
        tuned = wrap(model, "body/dense/kernel", rank=2)
        params, state = tuned.init(jax.random.key(0), STEPS)
        flat, name = jl.flatten(params), wrap.__name__
        for path, leaf in jl.flatten(own).items():
            np.testing.assert_array_equal(flat[path], leaf)
        np.testing.assert_allclose(
            tuned.apply(params, state, STEPS)[0], wanted, rtol=1e-4, atol=1e-5
        )
    a = flat[f"body/dense/kernel_{name}_a"]
    assert a.shape == (3, 4, 2)
    # Each copy has a draw of its own, uniform up to 1 / sqrt(rows).
    assert len({float(copy[0, 0]) for copy in a}) == 3
    assert np.abs(a).max() <= 1 / 2
    assert not flat[f"body/dense/kernel_{name}_b"].any()


def test_the_scale():
    def doubled(**how):
        tuned = transforms.lora(jl.Dense(3, bias=False), rank=4, **how)
        params, _ = tuned.init(jax.random.key(0), STEPS)
        params |= {"kernel": jnp.zeros((4, 3)), "kernel_lora_b": jnp.ones((4, 3))}
        low = (STEPS @ params["kernel_lora_a"]).sum(-1, keepdims=True)
        return tuned.apply(params, {}, STEPS)[0] / low

    for how, scale in (
        ({}, 1.0),
        ({"alpha": 8.0}, 2.0),
        ({"alpha": 8.0, "rank_stabilized": True}, 4.0),
    ):
        np.testing.assert_allclose(doubled(**how), np.full((2, 5, 3), scale), rtol=1e-3)


def products_in(jaxpr):
    """The sizes, in order, of all products of matrices in a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield tuple(sorted(equation.outvars[0].aval.shape))
        for value in jax.tree.leaves([*equation.params.values()]):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products_in(inner)


@pytest.mark.parametrize("name", ["Dense", "SelfAttention"])
def test_a_frozen_kernel_has_no_sum_and_no_gradient(name):
    """No product in the program has the shape of a kernel, be it of the matrices or a gradient."""
    layer = {"Dense": jl.Dense(11), "SelfAttention": jl.SelfAttention(1, head_dim=11)}[name]
    tuned = transforms.lora(layer, rank=2)
    params, state = tuned.init(jax.random.key(0), STEPS)
    adapters, rest = jl.partition(params, "*_lora_?")

    def shapes(trained, rest):
        def loss(trained):
            return jnp.sum(tuned.apply(jl.combine(trained, rest), state, STEPS)[0])

        return set(products_in(jax.make_jaxpr(jax.grad(loss))(trained).jaxpr))

    found = shapes(adapters, rest)
    assert (2, 11) in found
    assert (4, 11) not in found
    assert (4, 11) in shapes(params, {})


def test_the_whole_weight_of_a_repeat_is_never_there():
    """Each copy makes its own inside the loop: products are of one copy."""
    deep = jl.repeat(jl.residual(jl.Conv(4, 3, padding="SAME")), 7)
    tuned = transforms.lora(jl.weight_norm(deep), rank=2)
    params, state = tuned.init(jax.random.key(0), STEPS)
    program = jax.make_jaxpr(lambda x: tuned.apply(params, state, x)[0])(STEPS)
    assert (4, 12) in [*products_in(program.jaxpr)]
    assert not [shape for shape in products_in(program.jaxpr) if 7 in shape]


def test_a_stream_of_blocks():
    block = jl.residual(jl.serial(jl.SelfAttention(2, causal=True), jl.LSTM(4), jl.Dense(4)))
    tuned = transforms.lora(jl.repeat(block, 2), "**/*kernel", rank=2)
    params, state = tuned.init(jax.random.key(0), STEPS)
    params = convert.draw(params)
    wanted, _ = tuned.apply(params, state, STEPS)
    start, step = jl.stream(tuned, capacity=5)
    carry = start(params, state, STEPS[:, :1])
    parts = []
    for i in range(5):
        y, carry = step(params, state, carry, STEPS[:, i : i + 1])
        parts.append(y)
    np.testing.assert_allclose(np.concatenate(parts, 1), wanted, rtol=1e-4, atol=1e-5)


def test_what_looks_into_a_model():
    model = jl.serial(body=jl.repeat(jl.residual(jl.Dense(4)), 2), head=jl.Dense(3))
    tuned = transforms.lora(model, "**/kernel", rank=2)
    again = eval(repr(tuned), {**vars(jl), "jl": jl, "lora": transforms.lora})
    assert repr(again) == repr(tuned)
    params, state = tuned.init(jax.random.key(0), STEPS)
    params = convert.draw(params)
    wanted, _ = tuned.apply(params, state, STEPS)

    def same(layer, params=params):
        y, _ = layer.apply(params, state, STEPS)
        np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)

    same(jl.plain(tuned))
    same(jl.rewrite(tuned, "head", lambda layer: jl.remat(layer)))
    same(tuned.rebuild({"": model}))
    same(pickle.loads(pickle.dumps(tuned)))
    y, seen = recorded(tuned, params, state, STEPS)
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
    assert {"body/0/body", "body/1/body", "head"} <= {one.path for one in seen}
    assert jl.summary(tuned, STEPS).parameters == sum(p.size for p in jax.tree.leaves(params))
    assert jl.parameters(tuned, STEPS)["body/body/kernel_lora_a"].copies == (2,)
    # NumPy's arrays, as read from a file, and a mask.
    same(tuned, jax.tree.map(np.asarray, params))
    masked = jl.Sequence(STEPS, np.ones((2, 5), bool))
    y, _ = tuned.apply(params, state, masked)
    np.testing.assert_allclose(y.values, wanted, rtol=1e-4, atol=1e-5)
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    assert tuned.apply(low, state, STEPS.astype(jnp.bfloat16))[0].dtype == jnp.bfloat16


def test_a_layer_inside_that_overflows_is_found():
    """Around each layer there is then a pair of functions, whose table hides the copies."""
    model = jl.serial(blocks=jl.repeat(jl.residual(jl.serial(jl.Dense(4))), 3), head=jl.Dense(2))
    tuned = transforms.lora(transforms.freeze(model, "**/bias"), "**/kernel", rank=1)
    params, state = tuned.init(jax.random.key(0), STEPS)
    kernel = params["blocks"]["body"]["dense"]["kernel"]
    params["blocks"]["body"]["dense"]["kernel"] = kernel.at[1].set(3e38)
    found = jl.inspection.find_non_finite(
        tuned, lambda y: jnp.mean(y), params, state, jax.random.key(0), (STEPS,)
    )
    assert (found.path, found.copies) == ("blocks/body/dense", ((1, 3),))


@pytest.mark.parametrize("wrap", [transforms.lora, transforms.dora], ids=["lora", "dora"])
@pytest.mark.parametrize(
    ("make", "texts"),
    [
        (lambda wrap: wrap(jl.Dense(3), "bias", rank=1), ["bias has no axis", "of kernels alone"]),
        (lambda wrap: wrap(jl.Dense(3), "kernal", rank=1), ["'kernal' fits no path", "kernel"]),
        (lambda wrap: wrap(jl.Dense(3), rank=0), ["rank"]),
        (lambda wrap: wrap(jl.Dense(3), ("kernel", 1), rank=1), ["tuple of patterns"]),
        (
            lambda wrap: jl.serial(a=wrap(wrap(jl.Dense(3), "kernel", rank=1), "kernel", rank=2)),
            ["at 'a'", "ora_a' is there already"],
        ),
        (
            lambda wrap: wrap(
                jl.stateless(
                    lambda key, x: {"kernel": jnp.ones((4, 4), jnp.int32)},
                    lambda params, x: x * params["kernel"].sum().astype(x.dtype),
                ),
                rank=1,
            ),
            ["kernel is not a floating array", "quantize(lora(model))"],
        ),
    ],
)
def test_refusals(wrap, make, texts):
    with pytest.raises(jl.LayerError) as caught:
        make(wrap).init(jax.random.key(0), STEPS)
    for text in texts:
        assert text in str(caught.value), caught.value


def test_a_rank_above_the_smaller_side_is_as_large_as_it_says():
    layer = transforms.lora(jl.Dense(2), rank=6)
    params, state = layer.init(jax.random.key(0), jl.spec((3, 4)))
    assert (params["kernel_lora_a"].shape, params["kernel_lora_b"].shape) == ((4, 6), (6, 2))
    params["kernel_lora_b"] = jax.random.normal(jax.random.key(1), (6, 2))
    x = jax.random.normal(jax.random.key(2), (3, 4))
    kernel = params["kernel"] + params["kernel_lora_a"] @ params["kernel_lora_b"]
    wanted = x @ kernel  # biases start as zeros
    np.testing.assert_allclose(layer.apply(params, state, x)[0], wanted, rtol=1e-4, atol=1e-5)
