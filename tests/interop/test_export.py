"""export_state_dict: what comes out is matched back exactly, and Keras and Flax load it."""

import os

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.convert import lenient

import jlayers as jl
from jlayers.interop.layouts.base import Layout, Place, has_shapes
from jlayers.interop.layouts.inverse import inverted, shapes_of

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")
L = keras.layers
F = jl.interop


def drawn(model, x):
    """Parameters and state at random, so that each array is another one."""
    rng = np.random.default_rng(0)
    trees = jax.eval_shape(model.init, jax.random.key(0), x)
    params, state = jax.tree.map(lambda s: np.asarray(rng.standard_normal(s.shape), s.dtype), trees)
    return params, jax.tree.map(lambda a: np.abs(a) + np.float32(0.5), state)


def equal(have, want):
    jax.tree.map(np.testing.assert_array_equal, have, want)


IMAGES = jl.serial(
    jl.Conv(4, 3),
    jl.BatchNorm(),
    jl.ConvTranspose(6, 2, strides=2, groups=2),
    jl.GroupNorm(2),
    jl.PReLU(),
    jl.Flatten(),
    jl.Dense(5),
    jl.Dense(5, bias=False),
)
ROWS = jl.serial(
    jl.Embedding(7, 4),
    jl.bidirectional(jl.LSTM(3)),
    jl.GRU(6),
    jl.LayerNorm(),
    jl.repeat(jl.residual(jl.serial(jl.RMSNorm(), jl.Dense(6, bias=False))), 2),
    jl.SimpleRNN(4),
)
ATTENTION = jl.serial(
    jl.SelfAttention(2, bias=True), jl.repeat(jl.SelfAttention(2, num_kv_heads=1, bias=False), 2)
)
MODELS = {
    "images": (IMAGES, jl.spec((1, 6, 5, 4))),
    "rows": (ROWS, jl.spec((2, 3), jnp.int32)),
    "attention": (ATTENTION, jl.spec((2, 3, 8))),
    "one layer": (jl.Dense(3), jl.spec((2, 4))),
}


@pytest.mark.parametrize("library", ["torch", "keras", "flax"])
@pytest.mark.parametrize("name", MODELS)
def test_it_is_matched_back(name, library):
    model, x = MODELS[name]
    params, state = drawn(model, x)
    arrays = F.export_state_dict(model, x, params, state, library=library, strict=False)
    plan = F.match(model, x, arrays, library=library)
    # One layer alone has the names that all of its kind have.
    assert {pair.how for pair in plan.matched} <= {"name", "the only one that fits"}
    equal(plan.load(), (params, state))
    # And once more by the plan: the same arrays under the same names.
    again = plan.export(params, state)
    assert again.keys() == arrays.keys()
    equal(again, arrays)


def test_names_of_each_library():
    model = jl.serial(stem=jl.Conv(4, 3), norm=jl.BatchNorm(), blocks=jl.repeat(jl.Dense(4), 2))
    x = jl.spec((1, 5, 3))
    given = (model, x, *drawn(model, x))
    assert list(F.export_state_dict(*given)) == [
        *("stem.weight", "stem.bias", "norm.weight", "norm.bias"),
        *("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"),
        *("blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "blocks.1.bias"),
    ]
    assert list(F.export_state_dict(*given, library="keras")) == [
        *("stem/kernel", "stem/bias", "norm/gamma", "norm/beta"),
        *("norm/moving_mean", "norm/moving_variance"),
        *("blocks/0/kernel", "blocks/0/bias", "blocks/1/kernel", "blocks/1/bias"),
    ]
    assert list(F.export_state_dict(*given, library="keras_weights")) == [
        *("layers/conv1d/vars/0", "layers/conv1d/vars/1"),
        *(f"layers/batch_normalization/vars/{i}" for i in range(4)),
        *("layers/dense/vars/0", "layers/dense/vars/1"),
        *("layers/dense_1/vars/0", "layers/dense_1/vars/1"),
    ]
    flax = F.export_state_dict(*given, library="flax", rules=["params/stem -> params/Conv_0"])
    assert list(flax) == [
        *("params/Conv_0/kernel", "params/Conv_0/bias"),
        *("params/norm/scale", "params/norm/bias"),
        *("batch_stats/norm/mean", "batch_stats/norm/var"),
        *(f"params/blocks/{i}/{name}" for i in (0, 1) for name in ("kernel", "bias")),
    ]
    rules = ["stem ->", "norm/num_batches_tracked ->", "blocks.* -> net.h*"]
    assert list(F.export_state_dict(*given, rules=rules)) == [
        *("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"),
        *(f"net.h{i}.{name}" for i in (0, 1) for name in ("weight", "bias")),
    ]


def test_biases_that_are_added_up():
    x = jl.spec((2, 3, 4))
    model = jl.serial(lstm=jl.LSTM(2), gru=jl.GRU(2))
    params, _ = drawn(model, x)
    arrays = F.export_state_dict(model, x, params)
    np.testing.assert_array_equal(arrays["lstm.bias_ih_l0"], params["lstm"]["bias"])
    np.testing.assert_array_equal(arrays["lstm.bias_hh_l0"], np.zeros(8))
    np.testing.assert_array_equal(arrays["gru.bias_ih_l0"], params["gru"]["bias"])
    np.testing.assert_array_equal(
        arrays["gru.bias_hh_l0"], [0, 0, 0, 0, *params["gru"]["recurrent_bias"]]
    )
    gru = jl.serial(gru=jl.GRU(2))
    bias = F.export_state_dict(gru, x, drawn(gru, x)[0], library="keras")["gru/bias"]
    r, z, n = np.split(drawn(gru, x)[0]["gru"]["bias"], 3)
    np.testing.assert_array_equal(bias[0], np.concatenate([z, r, n]))
    np.testing.assert_array_equal(bias[1, :4], np.zeros(4))


def test_dtypes_stay_and_a_diverged_network_can_be_written():
    x = jl.spec((1, 4))
    params = {"kernel": jnp.full((4, 2), jnp.nan, jnp.bfloat16), "bias": jnp.zeros(2, jnp.float16)}
    arrays = F.export_state_dict(jl.Dense(2), x, params)
    assert [str(array.dtype) for array in arrays.values()] == ["bfloat16", "float16"]


def test_a_plan_keeps_counters_and_ties():
    model = jl.serial(jl.Embedding(5, 3), jl.BatchNorm())
    x = jl.spec((2, 4), jnp.int32)
    params, state = drawn(model, x)
    rules = ["embedding -> wte", "batch_norm -> norm"]
    arrays = F.export_state_dict(model, x, params, state, rules=rules)
    arrays |= {"norm.num_batches_tracked": np.array(11), "head.weight": arrays["wte.weight"]}
    arrays |= {"position_ids": np.arange(4)}
    plan = F.match(model, x, arrays, rules=["head ->", "position_ids ->"])
    new = plan.export(jax.tree.map(lambda a: 2 * a, params), state)
    assert set(new) == set(arrays) - {"position_ids"}
    assert new["norm.num_batches_tracked"] == 11
    assert new["head.weight"] is new["wte.weight"]
    np.testing.assert_array_equal(new["head.weight"], 2 * params["embedding"]["embedding"])
    kept = F.match(model, x, {n: a for n, a in arrays.items() if "norm" in n})
    with pytest.raises(jl.InteropError, match="a plan that is not complete cannot be exported"):
        kept.export(params, state)
    assert "embedding/embedding" in kept.export(params, state, strict=False)


def test_errors():
    model, x = jl.serial(jl.Dense(2), jl.Affine()), jl.spec((1, 3))
    params, state = drawn(model, x)
    with pytest.raises(jl.InteropError, match="torch has no layout of 1 layers") as error:
        F.export_state_dict(model, x, params, state)
    assert "affine (Affine: scale [2], bias [2])" in str(error.value)
    assert "strict=False" in str(error.value)
    own = F.export_state_dict(model, x, params, state, strict=False)
    np.testing.assert_array_equal(own["affine.scale"], params["affine"]["scale"])
    with pytest.raises(jl.InteropError, match="no layouts of 'caffe'"):
        F.export_state_dict(model, x, params, library="caffe")

    dense = jl.serial(a=jl.Dense(2), b=jl.BatchNorm())
    params, state = drawn(dense, x)
    with pytest.raises(jl.InteropError, match=r"state must have 'b/mean'.*\n.*an empty tree"):
        F.export_state_dict(dense, x, params)
    with pytest.raises(jl.InteropError, match=r"1 arrays are not of this model\n.*params: c/d"):
        F.export_state_dict(dense, x, params | {"c": {"d": np.ones(1)}}, state)
    wrong = params | {"a": params["a"] | {"kernel": np.ones((2, 3))}}
    with pytest.raises(
        jl.InteropError, match=r"params must have 'a/kernel' in the shape(.|\n)*2, 3"
    ):
        F.export_state_dict(dense, x, wrong, state)
    with pytest.raises(jl.InteropError, match=r"two arrays would have the name 'b.weight'"):
        F.export_state_dict(dense, x, params, state, rules=["a -> b"])
    with pytest.raises(jl.InteropError, match="the rule 'stem -> a' matches nothing"):
        F.export_state_dict(dense, x, params, state, rules=["stem -> a"])


def test_a_layout_that_changes_numbers_is_not_inverted():
    place = Place("a", "Dense", {}, {"kernel": (2, 3)})
    scaled = Layout("scaled", ("Dense",), ("w",), (), lambda w, _: {"kernel": 2 * w["w"]})
    assert shapes_of(scaled, place) is None  # it says no shapes, and is only read
    with pytest.raises((ValueError, IndexError)):
        inverted(scaled, place, {"kernel": np.ones((2, 3), np.float32)}, {"w": (2, 3)})
    assert has_shapes(scaled, {"w": (2, 3)}, place)


def keras_images():
    return keras.Sequential(
        [
            keras.Input((8, 6, 3)),
            L.Conv2D(4, 3, name="renamed"),
            L.BatchNormalization(epsilon=1e-5),
            L.ReLU(),
            L.Dropout(0.5),
            L.Conv2DTranspose(6, 2, strides=2),
            L.Conv2D(4, 3, groups=2),
            L.Flatten(),
            L.Dense(5, use_bias=False),
            L.Dense(2),
        ]
    )


def keras_rows():
    ids = keras.Input((5,), dtype="int32")
    y = L.Embedding(7, 4)(ids)
    y = L.Bidirectional(L.GRU(3, return_sequences=True))(y)
    y = L.LayerNormalization(epsilon=1e-5)(y)
    y = L.Add()([y, L.LSTM(6, return_sequences=True)(y)])
    y = L.SimpleRNN(4, return_sequences=True)(y)
    return keras.Model(ids, L.Dense(2)(y))


KERAS = {
    "sequential": (
        keras_images,
        jl.serial(
            jl.Conv(4, 3),
            jl.BatchNorm(),
            jax.nn.relu,
            jl.Dropout(0.5),
            jl.ConvTranspose(6, 2, strides=2),
            jl.Conv(4, 3, groups=2),
            jl.Flatten(),
            jl.Dense(5, bias=False),
            jl.Dense(2),
        ),
        np.random.default_rng(0).standard_normal((2, 8, 6, 3)).astype("float32"),
    ),
    "functional": (
        keras_rows,
        jl.serial(
            jl.Embedding(7, 4),
            jl.bidirectional(jl.GRU(3)),
            jl.LayerNorm(),
            jl.residual(jl.LSTM(6)),
            jl.SimpleRNN(4),
            jl.Dense(2),
        ),
        np.random.default_rng(0).integers(0, 7, (2, 5)).astype("int32"),
    ),
}


@pytest.mark.oracle("Keras")
@pytest.mark.parametrize("name", KERAS)
def test_keras_loads_the_file_and_computes_the_same(name, tmp_path):
    make, ours, x = KERAS[name]
    params, state = drawn(ours, x)
    arrays = F.export_state_dict(ours, x, params, state, library="keras_weights")
    file = F.write(tmp_path / "model.weights.h5", arrays)
    equal(dict(F.read(file)), arrays)
    with lenient():
        theirs = make()
        theirs.load_weights(file)
        want = np.asarray(jax.jit(lambda x: theirs(x))(x))
    y, _ = jax.jit(ours.apply)(params, state, x)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x)))
        x = x.reshape(*x.shape[:2], -1)
        x = nn.RNN(nn.GRUCell(6))(nn.RNN(nn.LSTMCell(5))(x))
        return nn.Dense(2)(nn.LayerNorm()(nn.MultiHeadDotProductAttention(2)(x)))


@pytest.mark.oracle("Flax")
def test_flax_restores_the_file_and_computes_the_same(tmp_path):
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 3)).astype("float32")
    ours = jl.serial(
        jl.Conv(4, 3, padding="SAME"),
        jl.BatchNorm(),
        jax.nn.relu,
        lambda x: x.reshape(*x.shape[:2], -1),
        jl.LSTM(5),
        jl.GRU(6),
        jl.SelfAttention(2, bias=True),
        jl.LayerNorm(epsilon=1e-6),
        jl.Dense(2),
    )
    params, state = drawn(ours, x)
    rules = [
        *("params/conv -> params/Conv_0", "*/batch_norm -> */BatchNorm_0"),
        *("params/lstm -> params/LSTMCell_0", "params/gru -> params/GRUCell_0"),
        "params/self_attention -> params/MultiHeadDotProductAttention_0",
        *("params/layer_norm -> params/LayerNorm_0", "params/dense -> params/Dense_0"),
    ]
    arrays = F.export_state_dict(ours, x, params, state, library="flax", rules=rules)
    file = F.write(tmp_path / "model.msgpack", arrays)
    with lenient():
        target = jax.eval_shape(Net().init, jax.random.key(0), x)
        theirs = flax.serialization.from_bytes(target, file.read_bytes())
        assert jax.tree.map(jnp.shape, theirs) == jax.tree.map(jnp.shape, target)
        want = jax.jit(Net().apply)(theirs, x)
    y, _ = jax.jit(ours.apply)(params, state, x)
    np.testing.assert_allclose(y, want, rtol=2e-4, atol=2e-5)
