"""Files of Keras that do not hold the names of layers or variables as Keras 3 prints them."""

import io
import json
import os
import zipfile

import jax
import numpy as np
import pytest
from oracles.convert import lenient

import jlayers as jl
from jlayers import interop

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")
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


def recurrent():
    """A model of all recurrent layers there and here, and an input."""
    inputs = keras.Input((5, 4))
    with lenient():
        y = L.GRU(3, return_sequences=True)(L.LSTM(3, return_sequences=True)(inputs))
        y = L.GRU(3, reset_after=False, return_sequences=True)(y)
        y = L.Bidirectional(L.LSTM(3, return_sequences=True), name="both")(y)
        theirs = drawn(keras.Model(inputs, L.SimpleRNN(3, return_sequences=True)(y)))
        x = np.random.default_rng(1).normal(size=(2, 5, 4)).astype("float32")
        want = np.asarray(theirs(x))
    ours = jl.serial(
        *(jl.LSTM(3), jl.GRU(3), jl.GRU(3, reset_after=False)),
        *(jl.bidirectional(jl.LSTM(3)), jl.SimpleRNN(3)),
    )
    return theirs, ours, x, want


def of_keras_2(theirs, file):
    """As tf-keras 2.21 writes it: no names in the archive, and one description of two halves."""
    with zipfile.ZipFile(file) as archive:
        config = json.loads(archive.read("config.json"))
        weights = io.BytesIO(archive.read("model.weights.h5"))
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "Bidirectional":
            del layer["config"]["backward_layer"]
            layer["config"]["layer"]["config"]["name"] = "lstm"
    with h5py.File(weights, "r+") as opened:
        opened.visititems(lambda _, entry: entry.attrs.pop("name", None))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights.getvalue())
        archive.writestr("metadata.json", "{}")


@pytest.mark.oracle("Keras")
def test_recurrent_layers_in_every_file_of_keras(tmp_path):
    theirs, ours, x, want = recurrent()
    files = {name: tmp_path / name for name in ("m.h5", "m.keras", "old.keras", "m.weights.h5")}
    for file in files.values():
        (theirs.save_weights if "weights" in file.name else theirs.save)(file)
    of_keras_2(theirs, files["old.keras"])
    # The h5py layout of tf-keras 2: "lstm/lstm_cell/kernel:0", and no name of the model.
    files["old.h5"] = tmp_path / "old.h5"
    with h5py.File(files["m.h5"]) as new, h5py.File(files["old.h5"], "w") as old:
        layers = [layer.name for layer in theirs.layers]
        old.attrs["layer_names"] = layers
        for layer in layers:
            group = old.create_group(layer)
            arrays = new["model_weights"][layer]
            names = list(arrays.attrs["weight_names"])
            group.attrs["weight_names"] = [f"{name.split('/', 1)[-1]}:0" for name in names]
            for name, there in zip(names, group.attrs["weight_names"], strict=True):
                group[there] = arrays[name][()]
    run = jax.jit(ours.apply)
    for file in files.values():
        plan = interop.match(ours, x, interop.read(file))
        assert str(plan).startswith(f"6 of 6 layers, keras{'_weights' * ('weights' in file.name)}")
        y, _ = run(*plan.load(), x)
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6, err_msg=file.name)


# Keras 1 does not install beside a NumPy of today: names and orders are those of its source
# (keras/layers/recurrent.py of 1.2.2), gate by gate and, for consume_less="gpu", side by side.


@pytest.mark.parametrize("fused", [False, True])
def test_recurrent_layers_of_keras_1(fused, tmp_path):
    theirs, _, x, _ = recurrent()
    layers = [layer for layer in theirs.layers if layer.weights]
    ours = jl.serial(
        jl.LSTM(3), jl.GRU(3, reset_after=False), jl.bidirectional(jl.LSTM(3)), jl.SimpleRNN(3)
    )
    with h5py.File(tmp_path / "keras1.h5", "w") as file:
        file.attrs["layer_names"] = ["lstm_1", "gru_1", "bidirectional_1", "simplernn_1"]
        for layer, name in zip((layers[0], *layers[2:]), file.attrs["layer_names"], strict=True):
            halves = {name: layer}
            if name == "bidirectional_1":
                halves = {
                    "forward_lstm_2": layer.forward_layer,
                    "backward_lstm_2": layer.backward_layer,
                }
            group, names = file.create_group(name), []
            for half, rnn in halves.items():
                gates = {"LSTM": "ifco", "GRU": "zrh"}.get(type(rnn).__name__, "")
                for letter, array in zip("WUb", rnn.get_weights(), strict=True):
                    parts = {letter: array}
                    if gates and not fused:
                        split = np.split(array, len(gates), axis=-1)
                        parts = {f"{letter}_{g}": a for g, a in zip(gates, split, strict=True)}
                    for part, values in parts.items():
                        group[f"{half}_{part}"] = values
                        names.append(f"{half}_{part}")
            group.attrs["weight_names"] = names
    plan = interop.match(ours, x, interop.read(tmp_path / "keras1.h5"))
    params, _ = plan.load()
    arrays = {w.path: w for layer in (layers[0], *layers[2:]) for w in layer.weights}
    want, _ = interop.match(ours, x, arrays, library="keras").load()
    jax.tree.map(np.testing.assert_array_equal, params, want)
    back = plan.export(params)
    assert all(np.array_equal(back[name], array) for name, array in plan._arrays.items())
    # Its GRU has the reset gate before the product.
    gru = {n: a for n, a in plan._arrays.items() if n.startswith("gru_1/")}
    after = interop.match(jl.GRU(3), jl.spec((1, 5, 3)), gru)
    assert not after.complete


def test_gates_are_turned_in_files_of_keras_and_not_in_our_own_arrays():
    """Without a second bias, a GRU has the same names and shapes in both."""
    gru, x = jl.GRU(2, reset_after=False), jl.spec((1, 3, 4))
    shapes = {"kernel": (4, 6), "recurrent_kernel": (2, 6), "bias": (6,)}
    rng = np.random.default_rng(0)
    theirs = {f"gru/gru_cell/{name}": rng.normal(size=shape) for name, shape in shapes.items()}
    plan = interop.match(gru, x, theirs, library="keras")
    assert str(plan).startswith("1 of 1 layers, keras\n")
    params, _ = plan.load()
    want = np.asarray(theirs["gru/gru_cell/bias"], "float32")[[2, 3, 0, 1, 4, 5]]
    np.testing.assert_array_equal(params["bias"], want)
    # A rule may call it as ours is called: it is one of Keras all the same.
    old = {name.replace("gru_cell/", ""): array for name, array in theirs.items()}
    named = jl.serial(rnn=gru)
    params, _ = interop.match(named, x, old, rules=["gru -> rnn"], library="keras").load()
    np.testing.assert_array_equal(params["rnn"]["bias"], want)
    with pytest.raises(jl.InteropError, match="may be of keras or flax"):
        interop.match(named, x, old, rules=["gru -> rnn"])
    own = {name.replace("gru/", "rnn/"): array for name, array in old.items()}
    params, _ = interop.match(named, x, own).load()
    np.testing.assert_array_equal(params["rnn"]["bias"], own["rnn/bias"].astype("float32"))
