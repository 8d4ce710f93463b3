"""What goes where: by name, by shape, by order, by rules; and what the plan says."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from oracles.convert import lenient

import jlayers as jl

RANDOM = np.random.default_rng(0)


def draw(*shape):
    return RANDOM.standard_normal(shape).astype("float32")


def linear(name, before, after):
    return {f"{name}.weight": draw(after, before), f"{name}.bias": draw(after)}


MODEL = jl.serial(jl.Dense(8), jax.nn.relu, jl.Dense(8), jax.nn.relu, jl.Dense(2))
X = jl.spec((4, 3))
ARRAYS = linear("0", 3, 8) | linear("2", 8, 8) | linear("4", 8, 2)


def test_the_plan_is_printed_and_loaded():
    plan = jl.interop.match(MODEL, X, ARRAYS)
    assert str(plan).splitlines() == [
        "3 of 3 layers, torch",
        "  dense   <- 0.weight, 0.bias  (torch Linear: transposed; by the only one that fits)",
        "  dense_1 <- 2.weight, 2.bias  (torch Linear: transposed; by the only one that fits)",
        "  dense_2 <- 4.weight, 4.bias  (torch Linear: transposed; by the only one that fits)",
    ]
    params, state = plan.load()
    assert state == {}
    np.testing.assert_array_equal(params["dense_1"]["kernel"], ARRAYS["2.weight"].T)
    MODEL.apply(params, state, jnp.zeros((4, 3)))


def test_equal_shapes_go_by_order_unless_names_say_otherwise():
    model = jl.serial(a=jl.Dense(4), b=jl.Dense(4))
    arrays = linear("b", 4, 4) | linear("a", 4, 4)
    plan = jl.interop.match(model, jl.spec((2, 4)), arrays)
    assert [(pair.path, pair.names[0], pair.how) for pair in plan.matched] == [
        ("a", "a.weight", "name"),
        ("b", "b.weight", "name"),
    ]
    renamed = {f"net.{name.replace('a', 'x', 1)}": array for name, array in arrays.items()}
    plan = jl.interop.match(model, jl.spec((2, 4)), linear("y", 4, 4) | linear("x", 4, 4))
    assert [(pair.path, pair.names[0], pair.how) for pair in plan.matched] == [
        ("a", "y.weight", "order"),
        ("b", "x.weight", "order"),
    ]
    rules = ["net.b -> b", "net.x -> a"]
    ruled = jl.interop.match(
        model, jl.spec((2, 4)), linear("net.b", 4, 4) | linear("net.x", 4, 4), rules=rules
    )
    assert [pair.names[0] for pair in ruled.matched] == ["net.x.weight", "net.b.weight"]
    assert renamed


def test_equal_shapes_go_by_a_word_of_both_before_order():
    model = jl.serial(*[jl.residual(jl.Dense(4), shortcut=jl.Dense(4)) for _ in range(2)])
    arrays = {}
    for i in range(2):
        arrays |= linear(f"blocks.{i}.shortcut", 4, 4) | linear(f"blocks.{i}.fc", 4, 4)
    plan = jl.interop.match(model, jl.spec((2, 4)), arrays)
    assert {pair.path: pair.names[0] for pair in plan.matched} == {
        "residual/body": "blocks.0.fc.weight",
        "residual/shortcut": "blocks.0.shortcut.weight",
        "residual_1/body": "blocks.1.fc.weight",
        "residual_1/shortcut": "blocks.1.shortcut.weight",
    }
    # As others call it.
    renamed = {name.replace("shortcut", "downsample.0"): array for name, array in arrays.items()}
    plan = jl.interop.match(model, jl.spec((2, 4)), renamed)
    assert plan.matched[3].names[0] == "blocks.1.downsample.0.weight"


def test_the_branches_of_a_sum_do_not_go_by_order():
    """Either may have been defined first, and both have the same shape."""
    body = jl.serial(jl.Dense(4), jax.nn.relu, jl.Dense(8))
    model, x = jl.serial(jl.residual(body, shortcut=jl.Dense(8))), jl.spec((2, 4))
    arrays = linear("0", 4, 4) | linear("1", 4, 8) | linear("2", 4, 8)
    plan = jl.interop.match(model, x, arrays)
    either = ["1", "2"]
    assert plan.ambiguous == {"residual/body/dense_1": either, "residual/shortcut": either}
    with pytest.raises(jl.InteropError) as raised:
        plan.load()
    rule = "1 -> residual/shortcut"
    assert f'(as well 1 or 2; rules=["{rule}"] says which)' in str(raised.value)
    plan = jl.interop.match(model, x, arrays, rules=[rule])
    params, _ = plan.load()
    np.testing.assert_array_equal(params["residual"]["shortcut"]["kernel"], arrays["1.weight"].T)
    kernel = params["residual"]["body"]["dense_1"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["2.weight"].T)


def test_what_is_missing_extra_and_ambiguous():
    arrays = linear("0", 3, 8) | linear("4", 8, 2) | linear("old.head", 8, 5)
    plan = jl.interop.match(MODEL, X, arrays)
    assert not plan.complete
    assert plan.missing == {"dense_1": {"kernel": (8, 8), "bias": (8,)}}
    assert plan.extra == ["old.head.weight", "old.head.bias"]
    with pytest.raises(jl.InteropError, match="1 layers have no arrays and 2 arrays no layer") as e:
        plan.load()
    assert "dense_1 <- ?  (no arrays for kernel [8, 8], bias [8])" in str(e.value)
    assert "old.head.weight[5, 8] goes nowhere" in str(e.value)
    assert sorted(plan.load(strict=False)[0]) == ["dense", "dense_2"]
    plan = jl.interop.match(MODEL, X, arrays, rules=["old ->"])
    assert plan.extra == []
    three = linear("a", 4, 4) | linear("b", 4, 4) | linear("c", 4, 4)
    plan = jl.interop.match(jl.serial(jl.Dense(4), jl.Dense(4)), jl.spec((2, 4)), three)
    assert plan.ambiguous["dense"] == ["a", "b", "c"]
    assert "as well a or b or c" in str(plan)


def test_copies_are_stacked_and_images_turned():
    block = jl.residual(jl.serial(jl.LayerNorm(), jl.Dense(8), jax.nn.relu, jl.Dense(6)))
    model = jl.serial(jl.repeat(block, 3), jl.Dense(2))
    arrays = {}
    for i in range(3):
        arrays |= {f"h.{i}.n.weight": draw(6), f"h.{i}.n.bias": draw(6)}
        arrays |= linear(f"h.{i}.a", 6, 8) | linear(f"h.{i}.b", 8, 6)
    params, _ = jl.interop.match(model, jl.spec((4, 6)), arrays | linear("head", 6, 2)).load()
    got = params["residual"]["body"]["dense_1"]["kernel"]
    assert got.shape == (3, 8, 6)
    np.testing.assert_array_equal(got[2], arrays["h.2.b.weight"].T)
    # Rows of a kernel behind Flatten: (channels, height, width) there, channels last here.
    image = jl.serial(jl.MaxPool(2), jl.Flatten(), jl.Dropout(0.1), jl.Dense(3))
    weights = linear("fc", 2 * 3 * 5, 3)
    params, _ = jl.interop.match(image, jl.spec((1, 4, 6, 5)), weights).load()
    x = draw(1, 2, 3, 5)
    want = np.moveaxis(x, -1, 1).reshape(1, -1) @ weights["fc.weight"].T
    np.testing.assert_allclose(x.reshape(1, -1) @ params["dense"]["kernel"], want, rtol=1e-5)


def test_names_of_torch_and_transformers_for_parts_of_models():
    model = jl.serial(
        jl.weight_norm(jl.Conv(4, 3)), jl.weight_norm(jl.Conv(5, 2)), jl.Affine(bias=False)
    )
    arrays = {"0.weight_g": draw(4, 1, 1), "0.weight_v": draw(4, 2, 3), "0.bias": draw(4)}
    new = {"original0": draw(5, 1, 1), "original1": draw(5, 4, 2)}
    arrays |= {f"1.parametrizations.weight.{name}": array for name, array in new.items()}
    arrays |= {"1.bias": draw(5), "layer_scale_parameter": draw(5)}
    plan = jl.interop.match(model, jl.spec((1, 8, 2)), arrays)
    assert [pair.says for pair in plan.matched] == [
        "torch weight norm before 2.0",
        "torch weight norm",
        "transformers layer scale",
    ]
    params, state = plan.load()
    jax.tree.map(np.testing.assert_array_equal, plan.export(params, state), arrays)
    np.testing.assert_array_equal(params["conv_1"]["kernel_norm"], new["original0"][:, 0, 0])
    np.testing.assert_array_equal(params["conv_1"]["kernel"][1, 2], new["original1"][:, 2, 1])
    np.testing.assert_array_equal(params["affine"]["scale"], arrays["layer_scale_parameter"])
    bags = {"ids": jl.spec((2, 3), jnp.int32)}
    plan = jl.interop.match(jl.EmbeddingBag(7, 2), bags, {"table.weight": draw(7, 2)})
    assert plan.complete


def test_the_plan_says_that_rows_are_turned():
    model = jl.serial(jl.Flatten(), jl.Dense(3))
    for sizes, says in {
        (2, 3, 5): "torch Linear: transposed, rows from channels first",
        # Rows are in one order either way.
        (1, 1, 30): "torch Linear: transposed",
    }.items():
        plan = jl.interop.match(model, jl.spec((1, *sizes)), linear("fc", 30, 3))
        assert plan.matched[0].says == says


def test_variables_of_an_optimizer_are_left_out():
    arrays = {"dense/kernel": draw(3, 2), "dense/bias": draw(2)}
    of_torch = ("optimizer", "optimizer_states.0", "train.opt_g", "optim")
    names = ["optimizer/Variable_0", *(f"{key}.state.7.exp_avg" for key in of_torch)]
    arrays |= {name: draw(3, 2) for name in names}
    assert jl.interop.match(jl.Dense(2), jl.spec((1, 3)), arrays).complete
    others = {name: draw(7) for name in ("other", "optical.state.0.x", "optimizer.scale")}
    plan = jl.interop.match(jl.Dense(2), jl.spec((1, 3)), arrays | others)
    assert plan.extra == list(others)


def test_a_long_list_of_what_goes_nowhere_is_cut():
    arrays = linear("a", 3, 2) | {f"other.{i}": draw(1) for i in range(23)}
    plan = jl.interop.match(jl.Dense(2), jl.spec((1, 3)), arrays)
    assert len(plan.extra) == 23
    assert "other.19[1] goes nowhere" in str(plan)
    assert str(plan).endswith("\n  3 more arrays go nowhere: plan.extra")


def test_a_square_kernel_is_turned_as_the_others_are():
    x = jl.spec((2, 3))
    model = jl.serial(jl.Dense(4), jl.Dense(4), jl.Dense(5))
    as_it_is = {
        f"{i}.{name}": array.T
        for i, sizes in enumerate([(3, 4), (4, 4), (4, 5)])
        for name, array in linear("", *sizes).items()
        for name in [name[1:]]
    }
    params, _ = jl.interop.match(model, x, as_it_is).load()
    np.testing.assert_array_equal(params["dense_1"]["kernel"], as_it_is["1.weight"])
    mixed = as_it_is | {"0.weight": as_it_is["0.weight"].T}
    plan = jl.interop.match(model, x, mixed)
    assert plan.ambiguous == {"dense_1": ["1", "1"]}


@pytest.mark.oracle("Keras")
def test_keras_attention_and_separable_convolutions():
    layers = keras.layers
    inputs = keras.Input((6, 4))
    y = layers.SeparableConv1D(4, 3, depth_multiplier=2, padding="same")(inputs)
    y = layers.MultiHeadAttention(2, 3)(y, y)
    theirs = keras.Model(inputs, layers.GroupQueryAttention(3, 4, 2)(y, y))
    x = draw(2, 6, 4)
    with lenient():
        theirs.set_weights([draw(*w.shape) for w in theirs.get_weights()])
        want = theirs(x)
    ours = jl.serial(
        jl.Conv(8, 3, groups=4, padding="SAME", bias=False),
        jl.Conv(4, 1),
        jl.SelfAttention(2, head_dim=3, bias=True),
        jl.SelfAttention(4, head_dim=3, num_kv_heads=2, bias=True),
    )
    plan = jl.interop.match(ours, x, {w.path: np.asarray(w) for w in theirs.weights})
    y, _ = jax.jit(ours.apply)(*plan.load(), x)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


def test_keras_1_calls_weights_after_their_layers():
    arrays = {"dense_1/dense_1_W": draw(3, 2), "dense_1/dense_1_b": draw(2)}
    names = ("gamma", "beta", "running_mean", "running_std")
    arrays |= {f"bn/bn_{name}": draw(2) for name in names}
    params, state = jl.interop.match(jl.serial(jl.Dense(2), jl.BatchNorm()), X, arrays).load()
    np.testing.assert_array_equal(params["dense"]["kernel"], arrays["dense_1/dense_1_W"])
    np.testing.assert_array_equal(state["batch_norm"]["var"], arrays["bn/bn_running_std"])


def gru(name, before, size):
    shapes = {"kernel": (before, 3 * size), "recurrent_kernel": (size, 3 * size)}
    arrays = {f"{name}/{key}": draw(*shape) for key, shape in shapes.items()}
    return arrays | {f"{name}/bias": draw(2, 3 * size)}


def test_the_halves_of_a_bidirectional_layer_are_told_by_their_names():
    model = jl.serial(jl.bidirectional(jl.GRU(3)), jl.bidirectional(jl.GRU(3)))
    # As sleepecg's files have them: the backward half first.
    arrays = gru("b/backward_gru/cell", 6, 3) | gru("b/forward_gru/cell", 6, 3)
    arrays |= gru("b_1/backward_layer/cell", 6, 3) | gru("b_1/forward_layer/cell", 6, 3)
    plan = jl.interop.match(model, jl.spec((1, 4, 6)), arrays)
    found = {pair.path: pair.names[0] for pair in plan.matched}
    assert found == {
        "bidirectional/forward": "b/forward_gru/cell/kernel",
        "bidirectional/backward": "b/backward_gru/cell/kernel",
        "bidirectional_1/forward": "b_1/forward_layer/cell/kernel",
        "bidirectional_1/backward": "b_1/backward_layer/cell/kernel",
    }


def test_a_rule_may_begin_with_the_collection():
    arrays = {
        f"model.{name}": array for name, array in (linear("a", 3, 3) | linear("b", 3, 3)).items()
    }
    model = jl.serial(jl.Dense(3), jl.Dense(3))
    for rules in (["a -> dense_1"], ["model.a -> dense_1"], ["model.a -> dense_1", "b -> dense"]):
        plan = jl.interop.match(model, X, arrays, rules=rules)
        found = {pair.path: pair.names[0] for pair in plan.matched}
        assert found == {"dense": "model.b.weight", "dense_1": "model.a.weight"}


def test_errors():
    match = jl.interop.match
    with pytest.raises(jl.InteropError, match="the rule 'stem -> conv' matches nothing"):
        match(MODEL, X, ARRAYS, rules=["stem -> conv"])
    with pytest.raises(jl.InteropError, match="a rule must have an arrow"):
        match(MODEL, X, ARRAYS, rules=["stem conv"])
    with pytest.raises(jl.InteropError, match="no layouts of 'caffe'"):
        match(MODEL, X, ARRAYS, library="caffe")
    with pytest.raises(jl.InteropError, match=r"rules must be a list(?s:.*)rules=\['0 -> a'\]"):
        match(MODEL, X, ARRAYS, rules="0 -> a")
    with pytest.raises(jl.InteropError) as raised:
        match(MODEL, X, ARRAYS, rules=["0 -> linear"])
    assert "the rule '0 -> linear' names no layer of the model" in str(raised.value)
    assert "expected: dense, dense_1, dense_2" in str(raised.value)
    # A path on the way to a layer, and one that a later rule renames, are known.
    match(MODEL, X, ARRAYS, rules=["0 -> first", "first -> dense"])
    # An array may be given any name.
    renamed = {name.replace("0.weight", "0.kernel"): array for name, array in ARRAYS.items()}
    match(MODEL, X, renamed, rules=["0.kernel -> first.weight", "0.bias -> first.bias"]).load()


# What is not a mapping of names to arrays, and what to pass instead.
INSTEAD = {
    "a path": ("net.pt", "'net.pt'", "jl.interop.read(path)"),
    "a module": (types.SimpleNamespace(state_dict=dict), "SimpleNamespace", "module.state_dict()"),
    "a Keras model": (
        types.SimpleNamespace(get_weights=list),
        "SimpleNamespace",
        "{w.path: w.numpy() for w in model.weights}",
    ),
    "a list": ([np.ones(3)], "list", "zip(model.weights, arrays)"),
    "a nested dict": ({"params": {"dense": ARRAYS}}, "a mapping at 'params'", "jl.flatten(arrays)"),
}


@pytest.mark.parametrize("name", INSTEAD)
def test_what_is_not_a_mapping_says_what_to_pass(name):
    given, got, hint = INSTEAD[name]
    with pytest.raises(jl.InteropError, match="arrays must be a") as raised:
        jl.interop.match(MODEL, X, given)
    assert f"got:      {got}" in str(raised.value)
    assert hint in str(raised.value)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x)))
        x = x.reshape(*x.shape[:2], -1)
        x = nn.RNN(nn.LSTMCell(5))(x) + nn.RNN(nn.GRUCell(5))(x)
        return nn.Dense(2)(nn.LayerNorm()(nn.MultiHeadDotProductAttention(1)(x)))


@pytest.mark.oracle("Flax")
def test_flax():
    x = draw(2, 4, 6, 3)
    rows = jl.compose(lambda f, x: f.lstm(x) + f.gru(x), lstm=jl.LSTM(5), gru=jl.GRU(5))
    ours = jl.serial(
        jl.Conv(4, 3, padding="SAME"),
        jl.BatchNorm(),
        jax.nn.relu,
        lambda x: x.reshape(*x.shape[:2], -1),
        rows,
        jl.SelfAttention(1, bias=True),
        jl.LayerNorm(epsilon=1e-6),
        jl.Dense(2),
    )
    with lenient():
        variables = jax.eval_shape(Net().init, jax.random.key(0), x)
        leaves = jax.tree_util.tree_leaves_with_path(variables)
        arrays = {
            jax.tree_util.keystr(path, simple=True, separator="/"): draw(*leaf.shape)
            for path, leaf in leaves
        }
        arrays = {n: abs(a) + 0.5 if "var" in n else a for n, a in arrays.items()}
        theirs = jax.tree.unflatten(jax.tree.structure(variables), arrays.values())
        want = jax.jit(Net().apply)(theirs, x)
    plan = jl.interop.match(ours, x, arrays, library="flax")
    params, state = plan.load()
    y, _ = jax.jit(ours.apply)(params, state, x)
    np.testing.assert_allclose(y, want, rtol=2e-4, atol=2e-5)


@pytest.mark.oracle("Keras")
def test_keras():
    layers = keras.layers
    theirs = keras.Sequential(
        [
            layers.Embedding(7, 4),
            layers.Bidirectional(layers.GRU(3, return_sequences=True)),
            layers.LayerNormalization(epsilon=1e-5),
            layers.LSTM(5, return_sequences=True),
            layers.Dense(2),
        ]
    )
    ids = RANDOM.integers(0, 7, (2, 5))
    with lenient():
        theirs(ids)
        theirs.set_weights([draw(*w.shape) for w in theirs.get_weights()])
        want = theirs(ids)
    arrays = {w.path: np.asarray(w) for w in theirs.weights}
    ours = jl.serial(
        jl.Embedding(7, 4), jl.bidirectional(jl.GRU(3)), jl.LayerNorm(), jl.LSTM(5), jl.Dense(2)
    )
    plan = jl.interop.match(ours, jnp.asarray(ids), arrays)
    assert plan.library == "keras"
    y, _ = jax.jit(ours.apply)(*plan.load(), ids)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


@pytest.mark.oracle("Keras")
def test_slopes_that_keras_shares_between_axes():
    ours = jl.PReLU(feature_axes=-1)
    theirs = keras.Sequential([keras.Input((4, 5, 3)), keras.layers.PReLU(shared_axes=[1, 2])])
    theirs.layers[0].set_weights([draw(1, 1, 3)])
    arrays = {weight.path: np.asarray(weight) for weight in theirs.weights}
    x = draw(2, 4, 5, 3)
    plan = jl.interop.match(ours, x, arrays)
    params, state = plan.load()
    y, _ = ours.apply(params, state, jnp.asarray(x))
    with lenient():
        want = theirs(x)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
    back = plan.export(params, state)
    assert {n: a.tolist() for n, a in back.items()} == {n: a.tolist() for n, a in arrays.items()}
