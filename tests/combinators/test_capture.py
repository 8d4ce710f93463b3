"""Values from inside a model, against taps, which take them out by callbacks, and by hand."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl
from jlayers.combinators.capture import _recorder
from jlayers.combinators.selected import rewritten, selection
from jlayers.combinators.statistics import reduction
from jlayers.inspection.taps import recorded

X = jax.random.normal(jax.random.key(0), (2, 5, 4))
BLOCK = jl.TransformerBlock(
    jl.SelfAttention(2, causal=True), jl.serial(jl.Dense(8), jnp.tanh, jl.Dense(4))
)
MODEL = jl.serial(jl.Dense(4), blocks=jl.repeat(jl.repeat(BLOCK, 2), 3), head=jl.LSTM(3))
PARAMS, STATE = MODEL.init(jax.random.key(1), X)


def near(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def text_of(error):
    return str(error.value)


@pytest.mark.parametrize("side", ["output", "input"])
def test_every_layer_gives_what_taps_see(side):
    looking = jl.capture(MODEL, "**", what=side)
    assert jax.tree.structure(looking.init(jax.random.key(1), X)[0]) == jax.tree.structure(PARAMS)
    (y, captured), _ = jax.jit(looking.apply)(PARAMS, STATE, X)
    expected, seen = recorded(MODEL, PARAMS, STATE, X, side=side)
    near(y, expected)
    # Of the layers with one path the taps see the outer ones too, which give less.
    seen = {(a.site.path, a.copy): a.value for a in seen if "" not in a.site.layer.children}
    assert {path for path, _ in seen if path} - {"blocks"} == set(captured) - {"blocks"}
    for (path, copy), value in seen.items():
        if path:
            near(captured[path][copy], value)
    assert captured["blocks/mlp/dense"].shape[:2] == (3, 2)


def test_the_spec_and_the_transformations_of_a_capture():
    looking = jl.capture(MODEL, "blocks", "head")
    found = jl.out_spec(looking, X)
    (y, captured), _ = looking.apply(PARAMS, STATE, X)
    assert found == jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (y, captured))

    def loss(params, x):
        (_, captured), _ = looking.apply(params, STATE, x)
        return jnp.sum(captured["blocks"][1, 0] ** 2)

    def by_hand(params, x):
        x = x @ params["dense"]["kernel"] + params["dense"]["bias"][None, None]
        for i, j in ((0, 0), (0, 1), (1, 0)):
            own = jax.tree.map(lambda a, i=i, j=j: a[i, j], params["blocks"])
            x, _ = BLOCK.apply(own, {}, x)
        return jnp.sum(x**2)

    found, expected = (jax.jit(jax.grad(one))(PARAMS, X) for one in (loss, by_hand))
    jax.tree.map(near, found, expected)
    batched = jax.vmap(lambda x: loss(PARAMS, x[None]))(X)
    near(jnp.sum(batched), loss(PARAMS, X))


def test_blocks_of_a_stream_give_their_part():
    looking = jl.capture(MODEL, "blocks", "head:cell")
    start, step = jl.stream(looking, capacity=5)
    (_, first), carry = step(PARAMS, STATE, start(PARAMS, STATE, X[:, :2]), X[:, :2])
    (_, rest), _ = step(PARAMS, STATE, carry, X[:, 2:])
    (_, whole), _ = looking.apply(PARAMS, STATE, X)
    near(jnp.concatenate([first["blocks"], rest["blocks"]], 3), whole["blocks"])
    near(jnp.concatenate([first["head:cell"], rest["head:cell"]], 1), whole["head:cell"])


WRAPPED = {
    "remat": (jl.remat(jl.Dense(4)), ()),
    "ensemble": (jl.ensemble(jl.Dense(4), 3), (3,)),
    "shared": (jl.repeat(jl.Dense(4), 3, shared=True), (3,)),
    "inference": (jl.inference(jl.Dense(4)), ()),
    "with_losses": (jl.with_losses(jl.Dense(4)), ()),
    "carried": (jl.carried(jl.LSTM(4)), ()),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_values_get_out_of_wrappers(name):
    layer, copies = WRAPPED[name]
    model = jl.serial(layer=layer)
    params, state = model.init(jax.random.key(1), X)
    (_, captured), _ = jl.capture(model, "**").apply(params, state, X)
    _, seen = recorded(model, params, state, X)
    seen = [a.value for a in seen if "" not in a.site.layer.children and a.site.path in captured]
    (value,) = captured.values()
    assert value.shape == (*copies, *X.shape)
    near(value.reshape(-1, *X.shape), np.stack(seen[-value.size // X.size :]))


def test_a_layer_that_is_called_twice_gives_a_tuple():
    def body(f, x):
        return f.norm(f.dense(f.dense(x)))

    model = jl.compose(body, dense=jl.Dense(4), norm=jl.LayerNorm())
    params, state = model.init(jax.random.key(1), X)
    (_, captured), _ = jl.capture(jl.repeat(model, 2), "dense").apply(
        *jl.repeat(model, 2).init(jax.random.key(1), X), X
    )
    once, twice = captured["dense"]
    assert once.shape == twice.shape == (2, *X.shape)
    assert not np.allclose(once, twice)
    # In a body it is one child of others, and a capture in a capture keeps its own.
    both = jl.capture(jl.capture(model, "dense"), "norm", what="input")
    ((_, inner), outer), _ = both.apply(params, state, X)
    near(inner["dense"][1], outer["norm"])
    assert list(inner) == ["dense"]
    assert list(outer) == ["norm"]
    text = "".join(repr(both).split())
    assert text.startswith("capture(capture(compose(")
    assert text.endswith(",'dense',),'norm',what='input',)")
    same = jl.capture(jl.capture(jl.serial(a=jl.SelfAttention(2)), "a:*"), "a:weights")
    ((_, inner), outer), _ = same.apply(*same.init(jax.random.key(1), X), X)
    near(inner["a:weights"], outer["a:weights"])
    # Another layer inside goes on being captured.
    wider = jl.rewrite(both, "dense", lambda layer: jl.Dense(4, bias=False))
    params, state = wider.init(jax.random.key(1), X)
    assert wider.apply(params, state, X)[0][1]["norm"].shape == X.shape


def test_losses_and_values_travel_side_by_side():
    def penalised(f, x):
        f.add_loss(jnp.mean(x**2))
        return f.dense(x)

    block = jl.compose(penalised, dense=jl.Dense(4))
    model = jl.serial(blocks=jl.repeat(block, 3))
    params, state = model.init(jax.random.key(1), X)
    (_, expected), _ = jl.with_losses(model).apply(params, state, X)
    ((_, captured), loss), _ = jl.with_losses(jl.capture(model, "blocks", what="input")).apply(
        params, state, X
    )
    near(loss, expected)
    near(jnp.mean(captured["blocks"] ** 2) * 3, expected)
    ((_, loss), captured), _ = jl.capture(jl.with_losses(model), "blocks").apply(params, state, X)
    near(loss, expected)
    near(captured["blocks"][:2], jl.capture(model, "blocks", what="input").apply(params, state, X)[
        0
    ][1]["blocks"][1:])  # fmt: skip
    gradients = jl.with_losses(jl.capture(model, "blocks", what="gradient"))
    near(gradients.apply(params, state, X)[0][1], expected)


def test_weights_of_attention_are_those_that_the_layer_can_return():
    x = jl.Sequence.from_lengths(X, [5, 3])
    attend = jl.SelfAttention(2, window=(1, 1))
    model = jl.serial(attend=jl.repeat(attend, 2))
    params, state = model.init(jax.random.key(1), x)
    looking = jl.capture(model, "**/attend:weights", "attend")
    (y, captured), _ = looking.apply(params, state, x)
    plain, _ = model.apply(params, state, x)
    near(y.fill(), plain.fill())
    first = jax.tree.map(lambda a: a[0], params["attend"])
    (z, weights), _ = jl.SelfAttention(2, window=(1, 1), weights=True).apply(first, {}, x)
    near(captured["attend:weights"][0], weights)
    near(captured["attend"].values[0, 1, :3], z.values[1, :3])


OTHERS = {
    "additive": (jl.AdditiveAttention(3), jl.AdditiveAttention(3, weights=True)),
    "gmm": (jl.GMMAttention(2, 3, 4), jl.GMMAttention(2, 3, 4, weights=True)),
    "cross": (jl.CrossAttention(2), jl.CrossAttention(2, weights=True)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_weights_of_other_attention(name):
    attend, telling = OTHERS[name]
    x = jl.Sequence.from_lengths(X, [5, 3]), X[:, :3]
    model = jl.serial(attend=attend)
    params, state = model.init(jax.random.key(1), x)
    (y, captured), _ = jl.capture(model, "**:weights").apply(params, state, x)
    (z, weights), _ = telling.apply(params["attend"], {}, x)
    near(y.fill(), z.fill())
    near(captured["attend:weights"], weights.reshape(2, -1, 5, 3))


def test_weights_of_latent_attention_make_its_output():
    attend = jl.LatentAttention(2, latent_dim=6, rope_dim=2)
    model = jl.serial(attend=attend)
    params, state = model.init(jax.random.key(1), X)
    (y, captured), _ = jl.capture(model, "**:weights").apply(params, state, X)
    near(y, model.apply(params, state, X)[0])
    weights, own = captured["attend:weights"], params["attend"]
    latents = X @ own["latent_kernel"][:, :6]
    latents = latents / jnp.sqrt(jnp.mean(latents**2, -1, keepdims=True) + 1e-6)
    values = (latents @ own["value_kernel"]).reshape(2, 5, 2, -1)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, values).reshape(2, 5, -1)
    near(mixed @ own["out_kernel"], y)


@pytest.mark.parametrize("reverse", [False, True])
def test_gates_of_all_steps(reverse):
    x = jl.Sequence.from_lengths(X, [5, 3])
    model = jl.serial(lstm=jl.LSTM(3, reverse=reverse), gru=jl.GRU(2))
    params, state = model.init(jax.random.key(1), x)
    (y, found), _ = jl.capture(model, "lstm", "lstm:*", "gru:*").apply(params, state, x)
    near(y.fill(), model.apply(params, state, x)[0].fill())
    found = {name: np.asarray(value.values) for name, value in found.items()}
    # Step by step, from what was captured of the step before.
    p = jax.tree.map(np.asarray, params["lstm"])
    for row, length in enumerate([5, 3]):
        h, c = np.zeros(3), np.zeros(3)
        for t in range(length)[:: -1 if reverse else 1]:
            z = np.asarray(X[row, t]) @ p["kernel"] + h @ p["recurrent_kernel"] + p["bias"]
            i, f, g, o = np.split(z, 4)
            i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
            c = f * c + i * np.tanh(g)
            h = o * np.tanh(c)
            values = {"input_gate": i, "forget_gate": f, "candidate": np.tanh(g)}
            for name, value in (values | {"output_gate": o, "cell": c}).items():
                near(found[f"lstm:{name}"][row, t], value)
            near(found["lstm"][row, t], h)
    z, n, h = (found[f"gru:{name}"] for name in ("update_gate", "candidate", "reset_gate"))
    near(y.values[0, 1], (1 - z[0, 1]) * n[0, 1] + z[0, 1] * y.values[0, 0])
    assert h.shape == (2, 5, 2)


def test_probabilities_of_a_router():
    model = jl.serial(moe=jl.MixtureOfExperts(jl.Dense(4), 3))
    params, state = model.init(jax.random.key(1), X)
    (_, captured), _ = jl.capture(model, "moe:probabilities").apply(params, state, X)
    near(captured["moe:probabilities"], jax.nn.softmax(X @ params["moe"]["router"]["kernel"], -1))


def test_statistics_are_of_valid_steps_and_arise_in_the_loop():
    x = jl.Sequence.from_lengths(jnp.where(jnp.arange(5)[:, None] < 3, X, jnp.inf), [3, 3])
    model = jl.serial(blocks=jl.repeat(jl.serial(jl.Dense(4), jax.nn.relu), 3))
    params, state = model.init(jax.random.key(1), x)
    names = ("mean", "std", "norm", "histogram", "dead")
    (_, found), _ = jl.capture(model, "blocks/relu", reduce=names).apply(params, state, x)
    (_, whole), _ = jl.capture(model, "blocks/relu").apply(params, state, x)
    for i in range(3):
        values = np.asarray(whole["blocks/relu"].values[i, :, :3])
        own = jax.tree.map(lambda a, i=i: np.asarray(a[i]), found["blocks/relu"])
        near(own["mean"], values.mean())
        near(own["std"], values.std())
        near(own["norm"], np.linalg.norm(values))
        near(own["dead"], (values == 0).all((0, 1)).mean())
        counts, edges = np.histogram(values, 32)
        np.testing.assert_allclose(own["histogram"]["edges"], edges, atol=1e-5)
        assert own["histogram"]["counts"].sum() == counts.sum() == values.size
    looking = jl.capture(model, "blocks", reduce=lambda y: jnp.max(y.fill()))
    assert looking.apply(params, state, x)[0][1]["blocks"].shape == (3,)
    # The derivative of a root at 0 reaches no parameter.
    zeros = jax.tree.map(jnp.zeros_like, params)
    looking = jl.capture(model, "blocks", reduce="std")
    gradient = jax.grad(lambda p: jnp.sum(looking.apply(p, state, x)[0][0].fill()))(zeros)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def lowered(layer, params, state, x, pick):
    def loss(params):
        y, _ = layer.apply(params, state, x)
        return jnp.sum(pick(y) ** 2)

    return jax.jit(jax.value_and_grad(loss)).lower(params)


PROGRAMS = {
    "transformer": (MODEL, X, ("**/attend:weights", "blocks", "head:*")),
    "state": (
        jl.serial(jl.Dense(3), jl.BatchNorm(), jl.remat(jl.Dense(2))), X[0], ("dense", "dense_1")
    ),
    "experts": (jl.MixtureOfExperts(jl.Dense(4), 3), X, ("**:probabilities", "experts")),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_not_captured_costs_nothing(name):
    model, x, patterns = PROGRAMS[name]
    if name == "experts":
        model = jl.serial(moe=model)
        patterns = ("moe:probabilities", "moe/experts")
    params, state = model.init(jax.random.key(1), x)
    plain = lowered(model, params, state, x, lambda y: y)
    # The layers with recorders around them, where nothing captures.
    record = functools.partial(_recorder, object(), "output", reduction(None))
    recorders = rewritten(model, selection(model, patterns), record)
    again = lowered(recorders, params, state, x, lambda y: y)
    assert again.as_text() == plain.as_text()


@pytest.mark.parametrize("patterns", [("blocks",), ("**/mlp", "dense")])
def test_values_that_are_dropped_leave_nothing_in_the_compiled_program(patterns):
    def compiled(layer, pick):
        def forward(params, x):
            return pick(layer.apply(params, STATE, x)[0])

        text = jax.jit(forward).lower(PARAMS, X).compile().as_text()
        # Names and numbers of operations, and where they were written, differ.
        text = re.sub(r", metadata=\{.*?\}|\.\d+", "", text)
        return sorted(re.sub(r"\w*%[\w\-]+", "%", line).strip() for line in text.splitlines()[1:])

    looking = jl.capture(MODEL, *patterns)
    assert compiled(looking, lambda y: y[0]) == compiled(MODEL, lambda y: y)


def inside(body, **children):
    return jl.capture(jl.compose(body, **children), "dense")


def test_capturing_copies_is_a_scan_with_outputs_written_by_hand():
    block = jl.residual(jl.serial(jl.Dense(8), jnp.tanh, jl.Dense(4)))
    model = jl.repeat(block, 5, remat=False)
    params, _ = model.init(jax.random.key(1), X)

    def by_hand(params, x):
        def step(x, own):
            y, _ = block.apply(own, {}, x)
            return y, y

        return jax.lax.scan(step, x, params)

    def captured(params, x):
        (y, captured), _ = jl.capture(model, "").apply(params, {}, x)
        return y, captured[""]

    def operations(run):
        def loss(params, x):
            y, outputs = run(params, x)
            return jnp.sum(y**2), outputs

        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        text = step.lower(params, X).compile().as_text()
        return collections.Counter(re.findall(r"= \S+ ([a-z\-]+)\(", text))

    assert operations(captured) == operations(by_hand)


def test_errors():
    with pytest.raises(jl.LayerError) as error:
        jl.capture(MODEL, "attend")
    assert "capture: the pattern 'attend' fits no layer" in text_of(error)
    assert "hint:     '**/attend'" in text_of(error)
    with pytest.raises(jl.LayerError) as error:
        jl.capture(MODEL, "**/head:gates")
    assert "no layer of the pattern '**/head:gates' knows a value 'gates'" in text_of(error)
    assert "lstm at 'head': input_gate, forget_gate, candidate" in text_of(error)
    with pytest.raises(jl.LayerError) as error:
        jl.capture(MODEL, "dense:weights")
    assert "dense at 'dense': none" in text_of(error)
    with pytest.raises(jl.LayerError, match="takes a pattern or more"):
        jl.capture(MODEL)
    with pytest.raises(jl.LayerError, match="a pattern must be a text, got 3"):
        jl.capture(MODEL, 3)
    with pytest.raises(jl.LayerError, match=r"(?s)unknown what 'outputs'.*'output', 'input'"):
        jl.capture(MODEL, "head", what="outputs")
    with pytest.raises(jl.LayerError, match=r"(?s)reduce must be names.*got 'var'.*'mean', 'std'"):
        jl.capture(MODEL, "head", reduce="var")
    with pytest.raises(jl.LayerError, match="reduce raised ValueError: no"):
        jl.capture(MODEL, "head", reduce=fails).init(jax.random.key(0), X)
    with pytest.raises(jl.LayerError, match=r"(?s)of= is what gradients are of.*what='gradient'"):
        jl.capture(MODEL, "head", of=jnp.sum)
    with pytest.raises(jl.LayerError, match=r"of must be a function of \(y\)"):
        jl.capture(MODEL, "head", what="gradient", of=lambda y, target: y)


def fails(value):
    raise ValueError("no")


@pytest.mark.parametrize(
    "call",
    [
        lambda f, x: jax.vmap(f.dense)(x),
        lambda f, x: jax.checkpoint(lambda x: f.dense(x))(x),
        lambda f, x: jax.lax.map(f.dense, x),
    ],
)
def test_a_layer_in_a_transformation_that_a_body_calls_raises(call):
    model = jl.capture(jl.compose(call, dense=jl.Dense(4)), "dense")
    with pytest.raises(jl.LayerError) as error:
        model.init(jax.random.key(0), X)
    assert "Dense at 'dense': is captured or changed inside a transformation of JAX" in text_of(
        error
    )
    assert "jl.repeat, jl.ensemble and jl.remat" in text_of(error)


def test_where_values_are_of_parts_they_are_refused():
    with pytest.raises(jl.LayerError, match=r"(?s)in a pipeline.*got: *'body'.*repeat"):
        jl.capture(jl.pipeline(jl.residual(jl.Dense(4)), 2, 2, 2), "body").init(
            jax.random.key(0), X
        )

    def body(f, inputs):
        return f.dense(inputs[0]) + f.encoder(inputs[1])

    model = jl.capture(jl.compose(body, dense=jl.Dense(4), encoder=jl.once(jl.Dense(4))), "encoder")
    params, state = model.init(jax.random.key(0), (X, X[:, :1]))
    start, step = jl.stream(model)
    with pytest.raises(jl.LayerError, match=r"(?s)only the first block of a stream.*'encoder'"):
        step(params, state, start(params, state, (X, X[:, :1])), (X, X[:, :1]))
    attend = jl.capture(jl.serial(jl.SelfAttention(2, causal=True)), "**:weights")
    params, state = attend.init(jax.random.key(0), X)
    start, step = jl.stream(attend, capacity=5)
    with pytest.raises(jl.LayerError, match=r"(?s)weights of attention.*whole sequences, by apply"):
        step(params, state, start(params, state, X), X)
