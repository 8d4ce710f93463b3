"""A model beside its original: recorded activations, Keras and ONNX, and the mistakes they show."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from oracles.convert import lenient

import jlayers as jl

verify, match = jl.interop.verify, jl.interop.match
layers = keras.layers
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((6, 4)).astype("float32")


def draw(*shape):
    return RANDOM.standard_normal(shape).astype("float32")


def dense(before, after):
    return {"kernel": draw(before, after), "bias": draw(after)}


MODEL = jl.serial(a=jl.Dense(4), t=jnp.tanh, b=jl.Dense(4), c=jl.Dense(3))
PARAMS = {"a": dense(4, 4), "b": dense(4, 4), "c": dense(4, 3)}


def recording(params=PARAMS, x=X):
    """What the model computes, by hand."""
    h = {"fc1": x @ params["a"]["kernel"] + params["a"]["bias"]}
    h["act"] = np.tanh(h["fc1"])
    h["fc2"] = h["act"] @ params["b"]["kernel"] + params["b"]["bias"]
    h["output"] = h["fc2"] @ params["c"]["kernel"] + params["c"]["bias"]
    return h


def test_recorded_activations_agree():
    report = verify(MODEL, PARAMS, {}, recording(), X)
    assert report.ok
    report.check()
    assert [(row.path, row.theirs) for row in report.rows] == [
        ("a", "fc1"),
        ("t", "act"),
        ("b", "fc2"),
        ("c", ""),
        ("", ""),
    ]
    assert report.output.relative < 1e-6
    assert report.unpaired == report.theirs_unpaired == ()


def test_the_input_may_be_recorded(tmp_path):
    path = tmp_path / "activations.npz"
    np.savez(path, input=X, **recording())
    assert verify(MODEL, PARAMS, {}, path).ok


def test_the_first_layer_that_departs_is_named():
    wrong = PARAMS | {"b": PARAMS["b"] | {"kernel": PARAMS["b"]["kernel"].T}}
    report = verify(MODEL, wrong, {}, recording(), X)
    assert report.first.path == "b"
    assert report.hint == "it agrees with 'kernel' transposed"
    lines = str(report).splitlines()
    assert lines[0] == "2 of 5 activations agree with recorded activations"
    assert lines[1].split() == ["layer", "theirs", "largest", "relative", "shape"]
    assert lines[4].split()[:2] == ["b", "fc2"]
    assert lines[4].endswith("<- departs first")
    assert lines[5].endswith("departs")
    with pytest.raises(jl.InteropError) as raised:
        report.check()
    text = str(raised.value)
    assert "the layer 'b' departs from 'fc2' of recorded activations" in text
    assert "a difference of at most 1e-05 of the largest number" in text
    assert "paired by order, 2 activations before it agree" in text
    assert "it agrees with 'kernel' transposed" in text


def test_another_training_departs_at_the_first_layer():
    other = {name: dense(*weights["kernel"].shape) for name, weights in PARAMS.items()}
    report = verify(MODEL, other, {}, recording(), X)
    assert report.first.path == "a"
    assert not any(row.ok for row in report.rows)
    assert report.hint is None


def test_a_difference_within_the_tolerance_passes():
    there = {name: array * (1 + 3e-5) for name, array in recording().items()}
    assert verify(MODEL, PARAMS, {}, there, X).first.path == "a"
    assert verify(MODEL, PARAMS, {}, there, X, tolerance=1e-4).ok
    half = {name: array.astype("float16") for name, array in recording().items()}
    assert verify(MODEL, PARAMS, {}, half, X).ok


def test_rules_and_plans_decide_before_values():
    there = recording()
    there = {"x.fc2": there["fc1"]} | {"x.fc1": there["fc2"], "output": there["output"]}
    assert verify(MODEL, PARAMS, {}, there, X).ok
    # Crossed on purpose: it is what was asked for that is compared.
    report = verify(MODEL, PARAMS, {}, there, X, rules=["x.fc1 -> a", "x.fc2 -> b"])
    assert [(row.path, row.theirs, row.how) for row in report.rows[:1]] == [("a", "x.fc1", "rule")]
    assert report.first.path == "a"
    report = verify(MODEL, PARAMS, {}, there, X, rules=["x ->"])
    assert [row.path for row in report.rows] == ["c", ""]
    assert report.theirs_unpaired == ()


def test_layers_that_one_side_lacks_are_listed():
    there = recording() | {"norm": draw(6, 7)}
    there["output"] = there.pop("output")
    del there["act"]
    report = verify(MODEL, PARAMS, {}, there, X)
    assert report.ok
    assert report.unpaired == ("t",)
    assert report.theirs_unpaired == ("norm",)
    assert "without a counterpart: t" in str(report)
    assert "theirs without one: norm" in str(report)


def norms(there):
    """A norm over the features, or over the positions."""
    x = draw(3, 4, 4)
    axis = there
    mean, var = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
    return x, {"norm": (x - mean) / np.sqrt(var + 1e-5)}


def test_a_norm_over_positions_is_found():
    x, there = norms(1)
    scale = {"scale": np.ones(4, "float32"), "bias": np.zeros(4, "float32")}
    report = verify(jl.serial(jl.LayerNorm()), {"layer_norm": scale}, {}, there, x)
    assert report.first.path == "layer_norm"
    assert report.hint == "it agrees with axis=1"


LAYOUTS = {
    "channels first": ((2, 5, 6, 3), lambda y: np.moveaxis(y, -1, 1)),
    "time first": ((2, 5, 3), lambda y: np.swapaxes(y, 0, 1)),
    "heads first": ((2, 5, 4, 3), lambda y: np.swapaxes(y, 1, 2)),
    "": ((2, 5, 3), lambda y: y.reshape(10, 3)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_found_and_told(layout):
    shape, change = LAYOUTS[layout]
    x = draw(*shape)
    report = verify(jl.serial(jnp.tanh), {}, {}, {"output": change(np.tanh(x))}, x)
    assert report.ok
    assert report.output.layout == layout


def test_copies_of_repeat_and_calls_of_one_layer():
    def twice(f, x):
        return f.a(f.a(x))

    model = jl.serial(jl.repeat(jl.Dense(4), 2), jl.compose(twice, a=jl.Dense(4)))
    stacked = {"kernel": draw(2, 4, 4), "bias": draw(2, 4)}
    shared = dense(4, 4)
    there, h = {}, X
    for i in 0, 1:
        h = there[f"block.{i}"] = h @ stacked["kernel"][i] + stacked["bias"][i]
    for i in 0, 1:
        h = there[f"shared.{i}"] = h @ shared["kernel"] + shared["bias"]
    params = {"dense": stacked, "compose": {"a": shared}}
    report = verify(model, params, {}, there, X)
    assert report.ok
    assert [row.path for row in report.rows][:2] == ["dense/0", "dense/1"]
    assert [row.path for row in report.rows if row.path.startswith("compose/")] == [
        "compose/a",
        "compose/a#2",
    ]
    swapped = params | {"dense": {n: array[::-1] for n, array in stacked.items()}}
    report = verify(model, swapped, {}, there, X)
    assert (report.first.path, report.hint) == ("dense/0", "it agrees with the arrays of 'dense/1'")


KERAS = keras.Sequential(
    [
        layers.Dense(4, activation="tanh", name="a"),
        layers.Dense(4, name="b"),
        layers.Dense(4, name="b2"),
        layers.Dense(3, name="c"),
    ]
)
KERAS.build((None, 4))
OURS = jl.serial(a=jl.Dense(4), t=jnp.tanh, b=jl.Dense(4), b2=jl.Dense(4), c=jl.Dense(3))


def randomised(net):
    for weight in net.weights:
        weight.assign(RANDOM.uniform(0.1, 0.6, weight.shape).astype("float32"))
    return {weight.path: np.asarray(weight) for weight in net.weights}


@pytest.mark.oracle("Keras")
def test_keras_with_swapped_layers():
    randomised(KERAS)
    params = {
        layer.name: {"kernel": np.asarray(layer.kernel), "bias": np.asarray(layer.bias)}
        for layer in KERAS.layers
    }
    report = verify(OURS, params, {}, KERAS, jl.spec((6, 4)))
    assert report.ok
    assert [row.theirs for row in report.rows] == ["a", "a:tanh", "b", "b2", "c", ""]
    # Keras's own files hold counters for names: these load into each other without a word.
    swapped = params | {"b": params["b2"], "b2": params["b"]}
    report = verify(OURS, swapped, {}, KERAS, jl.spec((6, 4)))
    assert (report.first.path, report.first.theirs, report.first.how) == ("b", "b", "name")
    assert report.hint == "it agrees with the arrays of 'b2'"
    # The model is as it was.
    assert all("call" not in vars(layer) for layer in KERAS.layers)
    assert KERAS.layers[0].activation is keras.activations.tanh


@pytest.mark.oracle("Keras")
def test_keras_with_wrappers_and_recurrent_layers():
    net = keras.Sequential(
        [
            layers.Embedding(9, 6),
            layers.Bidirectional(
                layers.GRU(4, return_sequences=True, name="gru"), name="bidirectional"
            ),
            layers.TimeDistributed(layers.Dense(6), name="time_distributed"),
            layers.LayerNormalization(),
        ]
    )
    with lenient():
        net.build((2, 5))
    arrays = randomised(net)
    ids = jl.spec((2, 5), jnp.int32)

    def model(epsilon):
        return jl.serial(
            jl.Embedding(9, 6),
            jl.bidirectional(jl.GRU(4)),
            jl.each_step(jl.Dense(6)),
            jl.LayerNorm(epsilon=epsilon),
        )

    plan = match(model(1e-3), ids, arrays)
    params, state = plan.load()
    report = verify(model(1e-3), params, state, net, ids, plan=plan)
    assert report.ok
    rows = {row.path: (row.theirs, row.how) for row in report.rows}
    # Keras numbers the names of a process, and other tests may have been there.
    both, dense = net.layers[1], net.layers[2].name
    forward = f"{both.name}/{both.forward_layer.name}"
    assert rows["bidirectional/forward"] == (forward, "plan")
    assert rows["bidirectional"][0] == both.name
    assert rows["dense"][0] == dense
    # Keras's default is not ours, and not PyTorch's.
    report = verify(model(1e-5), params, state, net, ids, plan=plan)
    assert (report.first.path, report.hint) == ("layer_norm", "it agrees with epsilon=0.001")


@pytest.mark.oracle("Keras")
def test_the_biases_of_a_gru():
    net = keras.Sequential([layers.GRU(4, return_sequences=True, name="gru")])
    with lenient():
        net.build((2, 5, 3))
    arrays = randomised(net)
    x = jl.spec((2, 5, 3))
    model = jl.serial(jl.GRU(4))
    params, _ = match(model, x, arrays).load()
    assert verify(model, params, {}, net, x).ok
    own = params["gru"]
    n = own["bias"][-4:]
    wrong = own | {"bias": own["bias"].at[-4:].set(own["recurrent_bias"]), "recurrent_bias": n}
    report = verify(model, {"gru": wrong}, {}, net, x)
    assert (report.first.path, report.hint) == (
        "gru",
        "it agrees with the candidate's two biases swapped",
    )


def graph():
    arrays = {
        "conv.weight": draw(4, 3, 3, 3),
        "conv.bias": draw(4),
        "fc.weight": draw(4 * 6 * 6, 5),
        "fc.bias": draw(5),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("MatMul", ["f", "fc.weight"], ["m"]),
        helper.make_node("Add", ["m", "fc.bias"], ["y"]),
    ]
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ), arrays


NET = jl.serial(jl.Conv(4, 3), jax.nn.relu, jl.Flatten(), jl.Dense(5))
IMAGES = jl.spec((2, 8, 8, 3))


def test_onnx_by_path_bytes_and_object(tmp_path):
    model, arrays = graph()
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    # MatMul has its kernel as (in, out), which the plan of match takes for what fits.
    params = {
        "conv": {"kernel": arrays["conv.weight"].transpose(2, 3, 1, 0), "bias": draw(4)},
        "dense": {
            "kernel": arrays["fc.weight"].reshape(4, 6, 6, 5).transpose(1, 2, 0, 3).reshape(-1, 5),
            "bias": arrays["fc.bias"],
        },
    }
    params["conv"]["bias"] = arrays["conv.bias"]
    for reference in path, path.read_bytes(), model:
        report = verify(NET, params, {}, reference, IMAGES, channels_first=True)
        assert report.ok
    assert [(row.path, row.theirs, row.layout) for row in report.rows] == [
        ("conv", "h", "channels first"),
        ("relu", "r", "channels first"),
        ("flatten", "f", "channels first of (6, 6, 4)"),
        ("dense", "", ""),
        ("", "", ""),
    ]
    assert len(model.graph.output) == 1
    turned = params | {"conv": params["conv"] | {"kernel": params["conv"]["kernel"][::-1, ::-1]}}
    plan = match(jl.serial(jl.Conv(4, 3)), IMAGES, arrays, rules=["fc ->"])
    report = verify(NET, turned, {}, model, IMAGES, channels_first=True, plan=plan)
    assert (report.first.path, report.first.how) == ("conv", "plan")
    assert report.hint == "it agrees with 'kernel' turned"


def test_rounding_may_grow_and_not_jump():
    there = recording()
    errors = {"fc1": 3e-6, "act": 9e-6, "fc2": 4e-5, "output": 2e-4}
    grown = {name: array * np.float32(1 + errors[name]) for name, array in there.items()}
    assert verify(MODEL, PARAMS, {}, grown, X).ok
    jumped = there | {"fc2": grown["fc2"], "output": grown["output"]}
    report = verify(MODEL, PARAMS, {}, jumped, X)
    assert report.first.path == "b"
    assert report.first.tolerance == 1e-5


def test_onnx_with_a_recurrent_layer():
    gates = {"W": draw(1, 16, 3), "R": draw(1, 16, 4), "B": draw(1, 32)}
    node = helper.make_node("LSTM", ["x", *gates], ["y"], hidden_size=4)
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        [node],
        "net",
        [value("x", TensorProto.FLOAT, [5, 2, 3])],
        [value("y", TensorProto.FLOAT, [5, 1, 2, 4])],
        [numpy_helper.from_array(array, name) for name, array in gates.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    # As they are: ONNX has them in the order i, o, f, g.
    params = {
        "kernel": gates["W"][0].T,
        "recurrent_kernel": gates["R"][0].T,
        "bias": gates["B"][0, :16] + gates["B"][0, 16:],
    }

    def check(params):
        turned = lambda x: np.swapaxes(x, 0, 1)  # noqa: E731
        given = jl.serial(jl.LSTM(4)), {"lstm": params}, {}, model, jl.spec((2, 5, 3))
        return verify(*given, to_reference=turned)

    report = check(params)
    assert report.first.path == "lstm"
    assert report.hint == "it agrees where its gates are taken to be stored as i, o, f, g"
    order = [0, 2, 3, 1]
    parts = {name: np.split(array, 4, axis=-1) for name, array in params.items()}
    report = check(
        {name: np.concatenate([part[i] for i in order], -1) for name, part in parts.items()}
    )
    assert report.ok
    assert report.output.layout == "time and directions first"
