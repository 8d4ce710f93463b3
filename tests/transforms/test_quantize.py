"""quantize by path: what layers compute, where the numbers are, training, streams and files."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import convert
from tables.tiers import named

import jlayers as jl
from jlayers import decoding, training, transforms
from jlayers.checkpoint import read_checkpoint, save_checkpoint
from jlayers.testing import check_layer, check_sequence

STEPS = convert.draw_input((2, 5, 4))
IDS = np.array([[0, 3, -1], [2, 2, 1]], np.int32)

# A layer, the options of its quantize, and an input.
LAYERS = {
    "Dense": (jl.Dense(3), {}, STEPS),
    "Dense of two axes": (jl.Dense((2, 3)), {"dtype": "int4"}, STEPS),
    "Conv": (jl.Conv(3, 2), {"group_size": 2}, STEPS),
    "Embedding": (jl.Embedding(4, 6), {"pattern": "embedding", "axis": 0}, IDS),
    "Embedding in groups": (
        jl.Embedding(4, 6),
        {"pattern": "embedding", "axis": 0, "dtype": "int4", "group_size": 2},
        IDS,
    ),
    "Embedding by features": (jl.Embedding(4, 6), {"pattern": "embedding"}, IDS),
    "SelfAttention": (
        jl.SelfAttention(2, num_kv_heads=1, qk_norm="rms", gate=True),
        {"dtype": "float8_e4m3fn"},
        STEPS,
    ),
    "LSTM": (jl.LSTM(4), {}, STEPS),
    "GRU": (jl.GRU(4), {"dtype": "int4", "group_size": 2}, STEPS),
    "tied": (
        jl.tied(jl.Embedding(4, 6), jl.Dense(6)),
        {"pattern": ("**/embedding", "**/kernel"), "axis": 0},
        IDS,
    ),
    "repeat": (jl.repeat(jl.residual(jl.SelfAttention(2)), 2), {}, STEPS),
    "ensemble": (jl.ensemble(jl.repeat(jl.Dense(4), 1), 2), {"dtype": "int4"}, STEPS),
}
STEP = {"int8": 127, "int4": 7}


def rounded(kernel, copies, *, pattern="", dtype="int8", axis=-1, group_size=None):
    """A kernel as it is after rounding, by NumPy, each copy by itself."""
    kernel = np.asarray(kernel)
    if copies:
        how = {"dtype": dtype, "axis": axis, "group_size": group_size}
        return np.stack([rounded(one, copies - 1, **how) for one in kernel])
    first = np.moveaxis(kernel, axis, 0)
    groups = first.reshape(len(first), -1) if group_size is None else first
    groups = groups.reshape(*groups.shape[:-1], -1, group_size or groups.shape[-1])
    scale = np.abs(groups).max(-1, keepdims=True) / STEP.get(dtype, 448)
    whole = groups / scale
    whole = whole.astype(jnp.float8_e4m3fn) if dtype not in STEP else np.rint(whole)
    return np.moveaxis((whole.astype(kernel.dtype) * scale).reshape(first.shape), 0, axis)


FAST = ("Dense", "Conv", "Embedding", "SelfAttention", "LSTM", "tied", "repeat")


@pytest.mark.parametrize("name", named(LAYERS, *FAST))
def test_it_is_the_layer_with_rounded_weights(name):
    layer, how, x = LAYERS[name]
    model = transforms.quantize(layer, **how)
    copies = {"repeat": 1, "ensemble": 2}.get(name, 0)
    with jax.enable_x64(True):
        x = x.astype(np.float64) if x.dtype == np.float32 else x
        drawn, rest = layer.init(jax.random.key(0), x)
        drawn = convert.draw(jax.tree.map(lambda p: p.astype(np.float64), drawn))
        params, state = transforms.quantize_params(model, drawn, rest)
        gone = jl.flatten(drawn).keys() - jl.flatten(params).keys()
        assert {f"{path}_{end}" for path in gone for end in ("q", "scale")} == {*jl.flatten(state)}
        assert gone
        flat = jl.flatten(drawn)
        wide = flat | {path: rounded(flat[path], copies, **how) for path in gone}
        weights = np.random.default_rng(0).normal(size=jl.out_spec(layer, x).shape)

        def value_and_grad(layer, params, state):
            def loss(params, x):
                y, _ = layer.apply(params, state, x)
                return jnp.sum(weights * y), y

            of = (0,) if x.dtype == np.int32 else (0, 1)
            gradient = jax.value_and_grad(loss, of, has_aux=True)
            (_, y), gradients = jax.jit(gradient)(params, x)
            return y, gradients

        y, found = value_and_grad(model, params, state)
        expected, wanted = value_and_grad(layer, jl.unflatten(wide), rest)
        np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-9)
        # The parameters that are left have the gradients of the wide model, and so has the input.
        wanted = (jl.flatten(wanted[0]), *wanted[1:])
        for path, gradient in jl.flatten(found[0]).items():
            np.testing.assert_allclose(gradient, wanted[0][path], rtol=1e-9, atol=1e-9)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
            found[1:],
            wanted[1:],
        )
        plain, merged, after = transforms.merge(model, params, state)
        assert plain is layer
        assert jax.tree.structure(after) == jax.tree.structure(rest)
        assert jl.flatten(merged).keys() == wide.keys()
        for path, leaf in jl.flatten(merged).items():
            np.testing.assert_allclose(leaf, wide[path], rtol=1e-12, atol=1e-12, err_msg=path)


@pytest.mark.parametrize("name", ["Conv", "Embedding in groups", "ensemble"])
def test_init_rounds_the_initial_weights(name):
    layer, how, x = LAYERS[name]
    model = transforms.quantize(layer, **how)
    key = jax.random.key(3)
    found = model.init(key, x)
    expected = transforms.quantize_params(model, *layer.init(key, x))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert one.dtype == other.dtype


def test_the_laws_hold():
    body = jl.serial(jl.SelfAttention(2, causal=True), jl.Conv(4, 2, padding="CAUSAL"))
    model = transforms.quantize(jl.repeat(body, 2), dtype="int4", group_size=2)
    check_layer(model, STEPS)
    check_sequence(transforms.quantize(jl.serial(jl.Dense(4), jl.LSTM(3))), STEPS)


def test_activations():
    """Each row of a Dense layer's input by itself; the gradient is that without rounding."""
    layer = jl.Dense(3)
    drawn, _ = layer.init(jax.random.key(0), STEPS)
    plain, small = (
        transforms.quantize(layer, activations=activations) for activations in (None, "int8")
    )
    params, state = transforms.quantize_params(small, drawn)
    unit = np.abs(STEPS).max(-1, keepdims=True) / 127
    x = (np.rint(STEPS / unit) * unit).astype(np.float32)
    y, _ = small.apply(params, state, STEPS)
    expected, _ = plain.apply(params, state, x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    found, wanted = (
        jax.grad(lambda x, m=m: m.apply(params, state, x)[0].sum())(STEPS) for m in (small, plain)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


GPT = jl.serial(
    tokens=jl.Embedding(11, 8),
    blocks=jl.repeat(
        jl.TransformerBlock(
            jl.SelfAttention(2, causal=True, rope=True),
            jl.serial(jl.Dense(16), jax.nn.gelu, jl.Dense(8)),
        ),
        2,
    ),
    head=jl.Dense(11),
)


def trained():
    """A small model that has learned to count, and the loss of (model, params, state)."""
    ids = (np.arange(12)[None] + np.arange(11)[:, None]).astype(np.int32) % 11

    def loss(model, params, state):
        logits, _ = model.apply(params, state, ids[:, :-1])
        log_p = jax.nn.log_softmax(logits)
        return -jnp.mean(jnp.take_along_axis(log_p, ids[:, 1:, None], -1))

    params, state = GPT.init(jax.random.key(0), ids[:, :-1])
    optimizer = optax.adam(1e-2)

    def step(carry, _):
        params, memory = carry
        gradient = jax.grad(lambda p: loss(GPT, p, state))(params)
        updates, memory = optimizer.update(gradient, memory)
        return (optax.apply_updates(params, updates), memory), None

    run = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), length=60)[0][0])
    return run(params), state, jax.jit(loss, static_argnums=0)


def test_a_language_model(tmp_path):
    """Logits and perplexity stay close; it decodes by a stream as a whole; files keep it."""
    with convert.lenient():
        params, state, loss = trained()
    before = float(loss(GPT, params, state))
    assert before < 1
    for how, most, size in (
        ({"dtype": "int4", "group_size": 4}, 0.5, 0.6),
        ({}, 0.01, 0.6),
    ):
        model = transforms.quantize(
            transforms.quantize(GPT, **how), "tokens/embedding", **how, axis=0
        )
        small, own = transforms.quantize_params(model, params, state)
        after = float(loss(model, small, own))
        assert abs(after - before) < most
        assert after != before
        assert size_of(small, own) < size * size_of(params, state)
    prompt = np.array([[0, 1, 2], [5, 6, 7]], np.int32)
    found, wanted = (
        decoding.generate(m, p, s, prompt, 4).values
        for m, p, s in ((model, small, own), (GPT, params, state))
    )
    np.testing.assert_array_equal(found, wanted)
    trees = {"params": small, "state": own}
    path = save_checkpoint(tmp_path, trees, step=1)
    same(read_checkpoint(path, trees).tree, trees)
    jl.save_model(tmp_path / "model.safetensors", model, small, own)
    back, *kept = jl.load_model(tmp_path / "model.safetensors")
    assert repr(back) == repr(model)
    same(kept, [small, own])


def size_of(*trees):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(trees))


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_training_leaves_them_as_they_are():
    """The rest of the parameters learns, and so do matrices of LoRA."""
    layer = jl.serial(a=jl.Dense(6), b=jl.Dense(3))
    model = transforms.quantize(transforms.lora(layer, "a/kernel", rank=2))
    params, state = model.init(jax.random.key(0), STEPS)
    assert sorted(jl.flatten(params)) == ["a/bias", "a/kernel_lora_a", "a/kernel_lora_b", "b/bias"]
    step = training.train_step(
        model, lambda y, _: jnp.mean((y - 1) ** 2), optax.sgd(0.3, momentum=0.9)
    )
    run = step.start(jax.random.key(1), STEPS, params=params, state=state)
    losses = []
    for _ in range(12):
        run, report = jax.jit(step)(run, (STEPS, np.zeros(2)))
        losses.append(float(report["loss"]))
    assert losses[-1] < 0.6 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, run.state, state)
    for path, leaf in jl.flatten(run.params).items():
        assert (leaf != jl.flatten(params)[path]).any(), path
    own = run.params["a"]
    q, scale = (np.asarray(run.state["a"][f"kernel_{end}"]) for end in ("q", "scale"))
    kernel = (q * scale[:, None]).T + own["kernel_lora_a"] @ own["kernel_lora_b"]
    plain, merged, _ = transforms.merge(model, run.params, run.state)
    np.testing.assert_allclose(merged["a"]["kernel"], kernel, rtol=1e-4, atol=1e-5)
    wanted, _ = plain.apply(merged, {}, STEPS)
    found, _ = model.apply(run.params, run.state, STEPS)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_parts_of_a_model():
    """Two dtypes in one model, inside of copies and around them, beside a layer with a state."""
    inside = jl.serial(a=jl.Dense(4), b=jl.Dense(4))
    plain = jl.serial(first=jl.Dense(4), norm=jl.BatchNorm(), rest=jl.repeat(inside, 2))
    own = transforms.quantize(inside, "b/kernel", dtype="int4")
    model = jl.serial(
        first=jl.Dense(4),
        norm=jl.BatchNorm(),
        rest=transforms.quantize(jl.repeat(own, 2), "a/kernel"),
    )
    params, state = transforms.quantize_params(model, *plain.init(jax.random.key(0), STEPS))
    expected = model.init(jax.random.key(0), STEPS)
    jax.tree.map(np.testing.assert_array_equal, (params, state), expected)
    assert state["rest"]["a"]["kernel_q"].dtype == jnp.int8
    assert state["rest"]["b"]["kernel_q"].shape == (2, 4, 2)
    assert "kernel" in params["first"]
    _, after = model.apply(params, state, STEPS, train=True)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert (after["norm"]["mean"] != state["norm"]["mean"]).any()


def test_what_looks_into_a_model():
    model = transforms.quantize(jl.repeat(jl.Dense(4), 2), dtype="int4")
    params, state = model.init(jax.random.key(0), STEPS)
    assert repr(model) == "quantize(repeat(Dense(4), 2), dtype='int4')"
    assert jl.parameters(model, STEPS).keys() == {"bias"}
    assert jl.summary(model, STEPS).parameters == 8
    assert {*jl.flatten(state)} == {"kernel_q", "kernel_scale"}
    one = STEPS[:, :1]
    for platform, method in (("cpu", "digits"), ("gpu", "dequantize")):
        rows = jl.explain(jl.serial(body=model), one, platform=platform).decisions
        assert [(r.path, r.operation, r.method) for r in rows] == [
            ("body", "quantized_dense", method)
        ]
    assert params.keys() == {"bias"}


def test_logits_of_a_tied_table():
    """They are a product with the small weights, whose rows are the channels."""
    model = transforms.quantize(jl.tied(jl.Embedding(11, 6), jax.nn.relu), "**/embedding", axis=0)
    params, state = model.init(jax.random.key(0), IDS)
    rows = jl.explain(model, IDS, platform="cpu").decisions
    assert [(r.operation, r.method) for r in rows] == [("quantized_dense", "digits")]
    assert params == {}
    assert set(state) == {"embedding"}


INTEGERS = jl.stateless(
    lambda key, x: {"kernel": jnp.zeros((4, 4), jnp.int32)}, lambda params, x: x
)
COMPLEX = jl.stateless(
    lambda key, x: {"kernel": jnp.zeros((4, 4), jnp.complex64)}, lambda params, x: x
)


@pytest.mark.parametrize(
    ("make", "texts"),
    [
        (lambda q: q(jl.Dense(3), "head/kernel"), ["'head/kernel' fits no path", "kernel"]),
        (lambda q: q(jl.Dense(3), "bias"), ["bias has no axis beside that of outputs"]),
        # Which of two formats a pattern meant could not be told from the arrays.
        (
            lambda q: q(q(jl.serial(a=jl.Dense(3), b=jl.Dense(3)), "a/*kernel"), dtype="int4"),
            ["a/kernel is quantised already", "patterns that leave out the others"],
        ),
        (
            lambda q: q(jl.serial(a=q(jl.Dense(3)))),
            ["a/kernel is quantised already", "quantize each weight once"],
        ),
        (lambda q: q(INTEGERS), ["kernel is not a floating array", "int32[4, 4]"]),
        (lambda q: q(COMPLEX), ["kernel is not a floating array", "complex64[4, 4]"]),
        (
            lambda q: q(jl.serial(a=jl.Dense(3)), group_size=3),
            ["group_size 3 does not divide the 4 inputs of a/kernel", "float32[4, 3]"],
        ),
        (
            lambda q: q(jl.serial(jl.Dense(3), b=jl.Dense(2)), dtype="int4"),
            ["2, for two int4 in a byte, does not divide the 3 inputs of b/kernel"],
        ),
        (lambda q: q(jl.Dense(3), axis=2), ["kernel has no axis 2"]),
        (lambda q: q(jl.Dense(3), dtype="int3"), ["unknown dtype 'int3'", "'int8', 'int4'"]),
        (lambda q: q(jl.Dense(3), activations="int4"), ["unknown activations 'int4'", "'int8'"]),
        (
            lambda q: q(jl.Dense(3), activations="int8", group_size=2),
            ["activations='int8' needs integer weights with one scale a channel"],
        ),
    ],
)
def test_refusals(make, texts):
    with pytest.raises(jl.LayerError) as caught:
        make(transforms.quantize).init(jax.random.key(0), STEPS)
    for text in texts:
        assert text in str(caught.value), caught.value


def test_refusals_of_parameters():
    layer = jl.serial(a=jl.Dense(4))
    params, _ = layer.init(jax.random.key(0), STEPS)
    model = transforms.quantize(layer)
    small = transforms.quantize_params(model, params)
    broken = jax.tree.map(lambda p: p * np.nan, params)
    in_pairs = transforms.quantize(layer, dtype="int4")
    odd = {"a": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}
    for call, text in [
        (lambda: transforms.quantize_params(layer, params), "nothing in the model is quantised"),
        (lambda: transforms.quantize_params(params, {}, model), "expected a layer"),
        (lambda: transforms.quantize_params(model, *small), "a/kernel is quantised already"),
        (lambda: transforms.quantize_params(model, small[0]), "fits no path"),
        (lambda: transforms.quantize_params(model, broken), "a/kernel holds values that are not"),
        (lambda: transforms.quantize_params(in_pairs, odd), "the 3 inputs of a/kernel"),
        (lambda: model.apply(params, {}, STEPS), "a/kernel"),
    ]:
        with pytest.raises(jl.LayerError, match=text):
            call()


def test_as_in_keras():
    """Its int8 layers hold the same integers, and compute the same with rounded inputs."""
    keras = pytest.importorskip("keras")
    x = convert.draw_input((3, 16))
    kernel, bias, table = (convert.draw_input(shape) for shape in ((16, 5), (5,), (4, 6)))
    with convert.lenient():
        theirs = keras.layers.Dense(5)
        theirs.build((None, 16))
        theirs.set_weights([kernel, bias])
        theirs.quantize("int8")
        rows = keras.layers.Embedding(4, 6, weights=[table])
        rows.build()
        rows.quantize("int8")
        wanted = np.asarray(theirs(x)), np.asarray(rows(np.abs(IDS)))
    ours = transforms.quantize(jl.Dense(5), activations="int8")
    params, state = transforms.quantize_params(ours, {"kernel": kernel, "bias": bias})
    np.testing.assert_array_equal(state["kernel_q"].T, np.asarray(theirs._kernel))
    np.testing.assert_allclose(ours.apply(params, state, x)[0], wanted[0], rtol=1e-4, atol=1e-5)
    own = transforms.quantize(jl.Embedding(4, 6), "embedding", axis=0)
    params, state = transforms.quantize_params(own, {"embedding": table})
    found, _ = own.apply(params, state, np.abs(IDS))
    np.testing.assert_allclose(found, wanted[1], rtol=1e-4, atol=1e-5)
