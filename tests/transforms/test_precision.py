"""precision: dtypes by path, against casts written by hand and other libraries' options."""

import os
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import convert

import jlayers as jl
from jlayers import training, transforms
from jlayers.transforms import Precision

os.environ.setdefault("KERAS_BACKEND", "jax")

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (2, 5, 4))
BF16, F16, F32 = jnp.bfloat16, jnp.float16, jnp.float32
NET = jl.serial(jl.Dense(8), norm=jl.LayerNorm(), act=jax.nn.gelu, head=jl.Dense(3))
ISLANDS = {"norm": "float32", "**": "bfloat16"}


def drawn(model, x, scale=0.5):
    """Parameters none of which is zero or one, and the state."""
    params, state = model.init(KEY, x)
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    new = [
        leaf + (scale * jax.random.normal(k, leaf.shape)).astype(leaf.dtype)
        for leaf, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(treedef, new), state


def dtypes(tree):
    return {path: leaf.dtype.name for path, leaf in jl.flatten(tree).items()}


def dense(params, x):
    return jl.core.dense(x, params["kernel"].astype(x.dtype), params["bias"].astype(x.dtype))


def by_hand(params, x):
    """``NET`` with ``ISLANDS``, cast by cast."""
    x = dense(params["dense"], x.astype(BF16)).astype(F32)
    mean = jnp.mean(x, -1, keepdims=True)
    centred = x - mean
    x = centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)
    x = x * params["norm"]["scale"][None, None] + params["norm"]["bias"][None, None]
    x = jax.nn.gelu(x.astype(BF16))
    return dense(params["head"], x).astype(F32)


def test_islands_are_the_casts_written_by_hand():
    model = transforms.precision(NET, ISLANDS)
    params, state = drawn(model, X)
    assert set(dtypes(params).values()) == {"float32"}

    def loss(apply):
        return lambda params, x: jnp.sum(jnp.sin(apply(params, x)))

    ours = loss(lambda params, x: model.apply(params, state, x)[0])
    y = model.apply(params, state, X)[0]
    assert y.dtype == F32
    # The mean of float32 may be summed in another order: it is rounded to bfloat16 after that.
    np.testing.assert_allclose(y, by_hand(params, X), rtol=2e-2, atol=2e-2)
    mine, theirs = (jax.grad(f, (0, 1))(params, X) for f in (ours, loss(by_hand)))
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == F32
        np.testing.assert_allclose(a, b, rtol=5e-2, atol=5e-2 * float(jnp.abs(b).max()))
    # What is cast where is the same.
    casts = [
        [e.outvars[0].aval.dtype.name for e in jax.make_jaxpr(f)(params, X).eqns if dot(e)]
        for f in (ours, loss(by_hand))
    ]
    assert casts[0] == casts[1] == ["bfloat16", "bfloat16"]


def dot(equation):
    return equation.primitive.name == "dot_general" or "dot_general" in str(equation.params)


def test_one_rule_is_the_input_in_that_dtype():
    model = jl.serial(jl.Conv(4, 3), jl.BatchNorm(), jl.GRU(3), jl.SelfAttention(1))
    mixed = transforms.precision(model, "mixed")
    params, state = drawn(mixed, X)
    y, after = mixed.apply(params, state, X, train=True)
    z, same = model.apply(params, state, X.astype(BF16), train=True)
    np.testing.assert_array_equal(y, z.astype(F32))
    assert dtypes(after) == dtypes(state) == dict.fromkeys(dtypes(state), "float32")
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)


def test_float32_on_a_float32_model_changes_no_bit():
    params, state = drawn(NET, X)
    for rules in ("float32", {"norm": Precision("float32", output="input"), "**": F32}):
        model = transforms.precision(NET, rules)
        for a, b in zip(
            jax.tree.leaves(model.init(KEY, X)), jax.tree.leaves(NET.init(KEY, X)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        # Not even the program is another.
        programs = (jax.make_jaxpr(one.apply)(params, state, X) for one in (model, NET))
        assert len({re.sub("0x[0-9a-f]+", "", str(one)) for one in programs}) == 1


def test_float64_is_the_model_in_float64():
    with jax.enable_x64(True):
        model = transforms.precision(NET, Precision("float64", "float64"))
        params, state = model.init(KEY, jl.spec(X.shape))
        assert set(dtypes(params).values()) == {"float64"}
        params = jax.tree.map(lambda leaf: leaf + 0.1, params)
        y, _ = model.apply(params, state, X)
        assert y.dtype == F32
        wide = transforms.precision(NET, Precision("float64", "float64", output="computed"))
        y, _ = wide.apply(params, state, X)
        z, _ = NET.apply(params, state, X.astype("float64"))
        np.testing.assert_allclose(y, z, rtol=1e-12, atol=1e-12)
        grads = jax.grad(lambda p: wide.apply(p, state, X)[0].sum())(params)
        assert set(dtypes(grads).values()) == {"float64"}
        # The table alone in float64, its values those of float32 that were drawn.
        stored = transforms.precision(NET, {"dense": Precision(params="float64")})
        table = stored.init(KEY, jl.spec(X.shape))[0]["dense"]
        plain = NET.init(KEY, jl.spec(X.shape))[0]["dense"]
        for name, leaf in table.items():
            assert leaf.dtype == jnp.float64
            np.testing.assert_array_equal(leaf, plain[name])


def test_params_are_drawn_as_without_a_rule_and_rounded():
    model = jl.serial(jl.Embedding(11, 4), jl.repeat(jl.residual(NET_OF_4), 2), head=jl.Dense(3))
    half = transforms.precision(model, {"head": "float32", "**": Precision(params="bfloat16")})
    ids = jl.spec((2, 5), jnp.int32)
    params, plain = half.init(KEY, ids)[0], model.init(KEY, ids)[0]
    kept = {"head/bias", "head/kernel"}
    for path, leaf in jl.flatten(params).items():
        assert leaf.dtype == (F32 if path in kept else BF16), path
        np.testing.assert_array_equal(leaf, jl.flatten(plain)[path].astype(leaf.dtype))
    # The table of parameters says so too, and what is made from it.
    assert jl.parameters(half, ids)["embedding/embedding"].dtype == BF16
    mesh = jax.sharding.AbstractMesh((2,), ("data",))
    whole = jl.sharding.rules({"**": jax.sharding.PartitionSpec()})
    assert "bfloat16[11, 4]" in str(whole.layout(half, ids, mesh))
    assert jl.summary(half, ids).bytes < jl.summary(model, ids).bytes
    # Own arrays of a body, and those that a pair makes by itself, too.
    own = jl.compose(lambda f, x: x * f.param("s", jax.nn.initializers.ones, (1, 1, 4)), name="own")
    pair = jl.stateless(
        lambda key, x: {"w": jax.random.normal(key, (4,))}, lambda p, x: x * p["w"][None, None]
    )
    both = transforms.precision(jl.serial(own, pair=pair), Precision("bfloat16", "bfloat16"))
    params, state = both.init(KEY, X)
    assert set(dtypes(params).values()) == {"bfloat16"}
    # What a user wrote without a thought of dtypes computes in that of the rule all the same.
    wide = jax.tree.map(lambda leaf: leaf.astype(F32), params)
    assert both.apply(wide, state, X)[0].dtype == F32
    with pytest.raises(jl.LayerError, match="TypePromotionError"):
        transforms.without_precision(both).apply(wide, state, X.astype(BF16))


NET_OF_4 = jl.serial(jl.Dense(6), jnp.tanh, jl.Dense(4))


def test_flax_and_keras_say_the_same_by_their_options():
    from flax import linen as nn

    x, layer = X[0], transforms.precision(jl.Dense(3), Precision("float32", "bfloat16", "computed"))
    params, state = drawn(layer, x)
    y, _ = layer.apply(params, state, x)
    theirs = nn.Dense(3, dtype=BF16, param_dtype=F32)
    with convert.lenient():
        np.testing.assert_array_equal(y, theirs.apply({"params": params}, x))
    half = transforms.precision(jl.Embedding(7, 3), Precision("bfloat16", "bfloat16"))
    params, state = half.init(KEY, jnp.ones((2,), int))
    embed = nn.Embed(7, 3, dtype=BF16, param_dtype=BF16)
    ids = jnp.array([[1, 6], [0, 2]])
    y = half.apply(params, state, ids)[0]
    assert y.dtype == BF16
    np.testing.assert_array_equal(y, embed.apply({"params": params}, ids))
    import keras

    oracle = keras.layers.Dense(3, dtype="mixed_bfloat16")
    oracle.build(x.shape)
    mixed = transforms.precision(jl.Dense(3), Precision("float32", "bfloat16", "computed"))
    weights = {"kernel": oracle.kernel.value, "bias": oracle.bias.value}
    assert dtypes(weights) == dtypes(mixed.init(KEY, x)[0])
    with convert.lenient():
        theirs = oracle(x)
    y = mixed.apply(weights, {}, x)[0]
    assert y.dtype == theirs.dtype == BF16
    np.testing.assert_array_equal(y, theirs)


def blocks(norm_first):
    attend, mlp = jl.SelfAttention(2, causal=True), jl.serial(jl.Dense(8), jax.nn.gelu, jl.Dense(4))
    return jl.TransformerBlock(attend, mlp, norm_first=norm_first)


@pytest.mark.parametrize("norm_first", [True, False], ids=["pre-norm", "post-norm"])
def test_a_repeat_with_islands_is_its_copies_in_sequence(norm_first):
    rules = {"**/norm_*": "float32", "**": "bfloat16"}
    block = blocks(norm_first)
    deep = transforms.precision(jl.repeat(block, 3), rules)
    params, state = drawn(deep, X, 0.1)
    y, _ = deep.apply(params, state, X)
    # The carry of the loop has one dtype, although the last layer of a block may be an island.
    loops = [e for e in jax.make_jaxpr(deep.apply)(params, state, X).eqns if "jaxpr" in e.params]
    assert any(v.aval.dtype == BF16 and v.aval.shape == X.shape for e in loops for v in e.outvars)
    one = transforms.precision(block, rules | {"**": Precision(compute=BF16, output="computed")})
    z = X.astype(BF16)
    for i in range(3):
        z, _ = one.apply(jax.tree.map(lambda leaf, i=i: leaf[i], params), {}, z)
        z = z.astype(BF16)
    np.testing.assert_allclose(y, z.astype(F32), rtol=2e-2, atol=4e-2)
    grads = jax.grad(lambda p: deep.apply(p, state, X)[0].sum())(params)
    assert set(dtypes(grads).values()) == {"float32"}


def test_streams_sequences_and_remat():
    body = jl.serial(
        jl.Embedding(7, 4), jl.remat(jl.LSTM(4)), jl.repeat(blocks(True), 2), head=jl.Dense(3)
    )
    model = transforms.precision(body, {"**/norm_*": "float32", "**": "bfloat16"})
    ids = jnp.array([[1, 2, 3, 4, 5], [6, 5, 4, 0, 0]])
    params, state = drawn(model, ids, 0.2)
    whole, _ = model.apply(params, state, ids)
    # Without floating inputs the output is left as it was computed.
    assert whole.dtype == BF16
    start, step = jl.stream(model, capacity=5)
    carry = start(params, state, ids)
    assert set(dtypes(carry).values()) == {"bfloat16", "int32"}
    first, carry = step(params, state, carry, ids[:, :2])
    rest, _ = step(params, state, carry, ids[:, 2:])
    both = jnp.concatenate([first, rest], 1)
    np.testing.assert_allclose(both.astype(F32), whole.astype(F32), rtol=3e-2, atol=3e-2)
    masked, _ = model.apply(params, state, jl.Sequence.from_lengths(ids, jnp.array([5, 3])))
    np.testing.assert_array_equal(masked.values[1, :3], model.apply(params, state, ids)[0][1, :3])


def test_models_are_saved_with_their_rules(tmp_path):
    model = transforms.precision(jl.serial(blocks(True), head=jl.Dense(3)), {"head": "mixed"})
    params, state = model.init(KEY, X)
    jl.save_model(tmp_path / "model", model, params, state)
    loaded = jl.load_model(tmp_path / "model")
    assert repr(loaded.model) == repr(model)
    # What is left of the call where layers have changed since.
    other = transforms.stop_gradient(transforms.precision(NET, ISLANDS), "dense")
    other = transforms.clip_gradients(other, "head", norm=1.0)
    params, state = other.init(KEY, X)
    jl.save_model(tmp_path / "other", other, params, state)
    again = jl.load_model(tmp_path / "other").model
    assert repr(again) == repr(other) == repr(pickle.loads(pickle.dumps(other)))
    np.testing.assert_array_equal(
        again.apply(params, state, X)[0], other.apply(params, state, X)[0]
    )
    assert jl.out_spec(again, X) == jl.out_spec(other, X)
    assert repr(transforms.without_precision(again)).startswith(
        "serial(\n    stop_gradient(Dense(8))"
    )


def test_what_is_joined_has_one_dtype():
    merged = jl.concat(a=jl.Dense(3), b=jl.serial(jl.Dense(4), norm=jl.LayerNorm()))
    for model, island in (
        (merged, "b/norm"),
        (jl.residual(jl.LayerNorm()), "body"),
        (jl.add(x=jl.LayerNorm(), y=jl.Dense(4)), "x"),
    ):
        mixed = transforms.precision(model, {island: "float32", "**": "bfloat16"})
        assert jl.out_spec(mixed, X).dtype == F32
    # A part with rules ends in the dtype that it was given.
    part = transforms.precision(NET, {"dense": "bfloat16"})
    found = jax.make_jaxpr(part.apply)(*part.init(KEY, X), X)
    assert [v.aval.dtype.name for e in found.eqns if dot(e) for v in e.outvars] == [
        "bfloat16",
        "float32",
    ]


def test_accumulate_is_the_dtype_of_sums():
    x, rule = X[0], Precision(compute="bfloat16", accumulate="float32")
    layer = transforms.precision(jl.serial(jl.Dense(3), jl.Conv(2, 3)), rule)
    params, state = drawn(layer, X)
    y, _ = layer.apply(params, state, X)
    given = X.astype(BF16)
    kernel, bias = (params["dense"][name].astype(BF16) for name in ("kernel", "bias"))
    hidden = jnp.einsum("btd,dh->bth", given, kernel, preferred_element_type=F32).astype(BF16)
    hidden = hidden + bias[None, None]
    kernel, bias = (params["conv"][name].astype(BF16) for name in ("kernel", "bias"))
    z = jax.lax.conv_general_dilated(
        *(hidden, kernel, (1,), "VALID"),
        dimension_numbers=("NWC", "WIO", "NWC"),
        preferred_element_type=F32,
    ).astype(BF16)
    np.testing.assert_allclose(y, (z + bias[None, None]).astype(F32), rtol=1e-2, atol=1e-2)
    program = str(jax.make_jaxpr(jax.grad(lambda p: layer.apply(p, state, X)[0].sum()))(params))
    products = program.count("= dot_general") + program.count("= conv_general_dilated")
    assert products == program.count("preferred_element_type=float32") == 5
    # In loops too.
    lstm = transforms.precision(jl.LSTM(3), rule)
    params, state = lstm.init(KEY, X)
    program = str(jax.make_jaxpr(lstm.apply)(params, state, X))
    assert program.count("= dot_general") == program.count("preferred_element_type=float32") == 2
    assert jl.out_spec(lstm, x[None]).dtype == F32


@pytest.mark.parametrize("accumulate", [None, "float32"])
def test_every_transformation_of_jax_goes_through(accumulate):
    rule = Precision(compute="bfloat16", accumulate=accumulate)
    block = jl.serial(jl.Dense(4), jl.GRU(4), jl.Conv(4, 2, padding="CAUSAL"))
    model = transforms.precision(jl.repeat(block, 2), {"**/gru": rule, "**": rule})
    params, state = model.init(KEY, X)

    def loss(params, x):
        return jnp.sum(model.apply(params, state, x)[0] ** 2)

    def along(params):
        return jax.jvp(jax.grad(loss), (params, X), (params, X))[1]

    assert jax.eval_shape(along, params) == jax.eval_shape(lambda p: p, params)
    each = jax.eval_shape(jax.vmap(jax.grad(loss), (None, 0)), params, X[:, None])
    assert jax.tree.leaves(each)[0].shape[0] == 2
    exported = jax.export.export(jax.jit(model.apply))(params, state, X)
    assert exported.out_avals[0].dtype == F32
    with jax.checking_leaks():
        y, _ = jax.jit(model.apply)(params, state, X)
    assert jnp.all(jnp.isfinite(y))


def test_float16_with_a_loss_scale():
    model = transforms.precision(NET, {"norm": "float32", "**": "mixed_float16"})
    optimizer = optax.sgd(0.1)
    y = jnp.ones((2, 5, 3))

    def loss(y, targets):
        return 1e-4 * jnp.mean((y - targets) ** 2)

    state = training.train_state(model, optimizer, KEY, X, loss_scale=training.LossScale())
    step = training.train_step(model, loss, optimizer, loss_scale=training.LossScale())
    state, metrics = step(state, (X, y))
    assert jnp.isfinite(metrics["loss"])
    assert set(dtypes(state.params).values()) == {"float32"}


def test_paths_reprs_and_pickles_stay():
    model = transforms.precision(NET, ISLANDS)
    assert list(dict(jl.walk(model))) == list(dict(jl.walk(NET)))
    assert repr(model) == (
        "precision(\n    serial(Dense(8), norm=LayerNorm(), act=jax.nn.gelu, head=Dense(3)),\n"
        "    {'norm': 'float32', '**': 'bfloat16'},\n)"
    )
    again = pickle.loads(pickle.dumps(model))
    params, state = drawn(model, X)
    np.testing.assert_array_equal(
        again.apply(params, state, X)[0], model.apply(params, state, X)[0]
    )
    # A layer that is replaced has the rule of the one it replaces; the code says the same.
    changed = jl.rewrite(model, "norm", lambda _: jl.RMSNorm())
    assert "precision(RMSNorm(), Precision(compute='float32', output='computed'))" in repr(changed)
    assert jl.out_spec(changed, X).dtype == F32
    assert repr(transforms.without_precision(changed)) == repr(
        jl.rewrite(NET, "norm", lambda _: jl.RMSNorm())
    )
    assert repr(transforms.without_precision(model)) == repr(NET)
    # A rule inside stays: the outer one is for the others.
    twice = transforms.precision(transforms.precision(NET, {"norm": "float32"}), "bfloat16")
    np.testing.assert_array_equal(
        twice.apply(params, state, X)[0], model.apply(params, state, X)[0]
    )
    deep = jl.serial(model=jl.serial(NET))
    assert jl.serial(transforms.precision(jl.Dense(3), "mixed")).children["dense"].kind == "dense"
    assert jl.out_spec(transforms.precision(deep, {"model/**/norm": "mixed"}), X).dtype == F32
