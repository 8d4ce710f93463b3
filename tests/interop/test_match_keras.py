"""Files of Keras that do not hold the names of layers or variables as Keras 3 prints them."""

import os

import jax
import numpy as np
import pytest
from oracles.convert import lenient

import jlayers as jl
from jlayers import interop

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")
L = keras.layers


def drawn(theirs):
    rng = np.random.default_rng(0)
    theirs.set_weights([0.1 + abs(rng.normal(size=w.shape)) / 4 for w in theirs.get_weights()])
    return theirs


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """A model whose layers have names of their own, and the file with its weights alone."""
    inputs = keras.Input((6, 6, 3))
    with lenient():
        y = L.Conv2D(4, 3, name="dense")(inputs)
        y = L.BatchNormalization(scale=False, name="z")(L.DepthwiseConv2D(3, name="y")(y))
        y = L.Reshape((4, 4))(L.Conv2D(4, 1, use_bias=False, name="x")(y))
        y = L.Bidirectional(L.GRU(2, return_sequences=True))(L.GRU(4, return_sequences=True)(y))
        y = L.LayerNormalization(center=False)(L.MultiHeadAttention(2, 3)(y, y))
        theirs = drawn(keras.Model(inputs, L.Dense(4, name="b")(L.Dense(4, name="a")(y))))
    path = tmp_path_factory.mktemp("keras") / "model.weights.h5"
    theirs.save_weights(path)
    return theirs, path


@pytest.mark.oracle("Keras")
def test_a_bare_file_of_weights_goes_by_class_and_number(counted, tmp_path):
    theirs, path = counted
    ours = jl.serial(
        jl.Conv(4, 3),
        jl.Conv(4, 3, groups=4),
        jl.BatchNorm(scale=False, epsilon=1e-3),
        jl.Conv(4, 1, bias=False),
        lambda x: x.reshape(len(x), 4, 4),
        jl.GRU(4),
        jl.bidirectional(jl.GRU(2)),
        jl.SelfAttention(2, head_dim=3, bias=True),
        jl.LayerNorm(bias=False, epsilon=1e-3),
        jl.Dense(4),
        jl.Dense(4),
    )
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 3)).astype("float32")
    plan = interop.match(ours, x, interop.read(path), library="keras_weights")
    assert {pair.how for pair in plan.matched} == {"class and number"}
    assert str(plan).startswith("11 of 11 layers, keras_weights\n")
    params, state = plan.load()
    with lenient():
        want = np.asarray(theirs(x))
    y, _ = jax.jit(ours.apply)(params, state, x)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5 * abs(want).max())
    # And back into Keras.
    before = theirs.get_weights()
    file = interop.write(tmp_path / "back.weights.h5", plan.export(params, state))
    theirs.set_weights([0 * w for w in before])
    theirs.load_weights(file)
    with lenient():
        np.testing.assert_allclose(theirs(x), want, rtol=1e-5)
    theirs.set_weights(before)


def test_what_has_another_class_number_or_shape_is_missing():
    arrays = {f"layers/dense{end}/vars/0": np.ones((4, 4)) for end in ("", "_2")}
    arrays |= {
        "layers/dense_1/vars/0": np.ones((4, 5)),
        "layers/box/layers/dense/vars/0": np.ones(2),
    }
    dense = jl.Dense(4, bias=False)
    ours, x = jl.serial(dense, dense, dense, jl.Dense(4, bias=False)), jl.spec((1, 4))
    plan = interop.match(ours, x, arrays)
    assert list(plan.missing) == ["dense_1", "dense_3"]
    with pytest.raises(jl.InteropError, match="2 layers have no arrays and 2 arrays no layer") as e:
        plan.load()
    why = "no arrays for kernel [4, 4]: layers/dense_"
    assert f"dense_1 <- ?  ({why}1 has vars/0 [4, 5])" in str(e.value)
    assert f"dense_3 <- ?  ({why}3 has nothing in the file)" in str(e.value)
    # A rule says which group it is, whatever its number; variables can be named one by one.
    rules = ["layers/dense_2 -> dense_1", "layers/dense_1 ->", "layers/box ->"]
    plan = interop.match(jl.serial(dense, jl.Dense(4, bias=False)), x, arrays, rules=rules)
    assert [pair.names for pair in plan.matched] == [
        ("layers/dense/vars/0",),
        ("layers/dense_2/vars/0",),
    ]
    assert plan.complete


def test_numbers_are_of_variables_that_a_layer_has():
    two = {f"layers/layer_normalization/vars/{i}": np.full(3, float(i)) for i in range(2)}
    one = {"layers/layer_normalization/vars/0": np.ones(3)}
    x = jl.spec((1, 3))
    for layer, arrays, names in (
        (jl.LayerNorm(), two, ["bias", "scale"]),
        (jl.LayerNorm(bias=False), one, ["scale"]),
        (jl.LayerNorm(scale=False), one, ["bias"]),
    ):
        params, _ = interop.match(layer, x, arrays).load()
        assert sorted(params) == names
    for layer, arrays in ((jl.LayerNorm(), one), (jl.LayerNorm(bias=False), two)):
        assert not interop.match(layer, x, arrays).complete
