"""What ``verify`` refuses, and what it says."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from onnx import TensorProto, helper

import jlayers as jl

verify = jl.interop.verify
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((6, 4)).astype("float32")
MODEL = jl.serial(a=jl.Dense(3))
PARAMS = {"a": {"kernel": np.ones((4, 3), "float32"), "bias": np.zeros(3, "float32")}}
KERAS = keras.Sequential([keras.layers.Dense(3)])
KERAS.build((None, 4))


# The reference, x, and the options.
ERRORS = {
    "another kind": (
        (3, X, {}),
        ["the reference cannot be run", "torch.nn.Module", "Keras model", "got:      int"],
    ),
    "a file of weights": (
        ("net.h5", X, {}),
        ["'net.h5'", "load the model with its own library"],
    ),
    "no input": (({"a": X}, None, {}), ["no input", "jl.spec(", "the recorded 'input'"]),
    "another input": (
        ({"a": X}, jl.spec((6, 4)), {}),
        ["recorded activations are those of one input", "float32[6, 4]"],
    ),
    "nothing recorded": (({"input": X}, None, {}), ["holds no activations"]),
    "other outputs": (
        ({"a": np.ones((6, 5))}, X, {}),
        ["the outputs have other shapes", "[6, 5]", "[6, 3]", "change the head here"],
    ),
    "a rule": (
        ({"a": X, "y": X[:, :3]}, X, {"rules": ["head -> a"]}),
        ["'head -> a' matches nothing"],
    ),
    "an input that does not fit": (
        (KERAS, jl.spec((6, 4)), {"to_reference": lambda x: x[:, :3]}),
        ["a Keras model, does not take the input", "float32[6, 3]", "channels_first=True"],
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    (reference, x, options), texts = ERRORS[name]
    with pytest.raises(jl.InteropError) as raised:
        verify(MODEL, PARAMS, {}, reference, x, **options)
    for text in texts:
        assert text in str(raised.value)


def test_random_ids_need_a_range():
    with pytest.raises(jl.InteropError) as raised:
        verify(jl.serial(lambda x: -x), {}, {}, KERAS, jl.spec((6, 4), jnp.int32))
    assert "random integers need a range, and the model has no embedding" in str(raised.value)
    assert "x as an array" in str(raised.value)


def test_onnx_with_another_number_of_inputs():
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [6, 4])  # noqa: E731
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "net", [value("x")], [value("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(jl.InteropError) as raised:
        verify(MODEL, PARAMS, {}, model, X, to_reference=lambda x: (x, x))
    assert "takes 1 inputs, and got 2" in str(raised.value)
    assert "to_reference=lambda x: {name: array}" in str(raised.value)


def test_a_missing_package_is_named(monkeypatch):
    from jlayers.interop.references import base

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(base.importlib, "import_module", missing)
    with pytest.raises(jl.InteropError) as raised:
        verify(MODEL, PARAMS, {}, b"onnx", X)
    assert "an ONNX model is run by onnx, which is not installed" in str(raised.value)
    assert "pip install onnx" in str(raised.value)


def test_a_module_that_does_more_than_the_layer_with_its_arrays_does_not_depart():
    """As BERT's attention, which adds a shortcut and a norm to the projection of its output."""
    model = jl.serial(res=jl.residual(jl.Dense(4)), norm=jl.LayerNorm(), head=jl.Dense(3))
    x = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")
    params, state = model.init(jax.random.key(0), x)
    params = jax.tree.map(np.asarray, params)
    dense, head = params["res"]["body"], params["head"]
    arrays = {"attention.dense.weight": dense["kernel"].T, "attention.dense.bias": dense["bias"]}
    arrays |= {"norm.weight": params["norm"]["scale"], "norm.bias": params["norm"]["bias"]}
    arrays |= {"head.weight": head["kernel"].T, "head.bias": head["bias"]}
    body = x @ dense["kernel"] + dense["bias"]
    normed, _ = jl.LayerNorm().apply(params["norm"], {}, x + body)
    normed = np.asarray(normed)
    there = {"attention.drop": -body, "attention": normed, "norm": normed}
    there["head"] = normed @ head["kernel"] + head["bias"]
    plan = jl.interop.match(model, x, arrays)
    assert plan.matched[0].names[0] == "attention.dense.weight"
    report = jl.interop.verify(model, params, state, there, x, plan=plan)
    report.check()
    assert {row.path for row in report.rows} >= {"norm", "head", ""}
    assert "res/body" in report.unpaired
    # Where the layer is wrong, so is what follows.
    wrong = params | {"res": {"body": jax.tree.map(lambda leaf: 2 * leaf, dense)}}
    assert not jl.interop.verify(model, wrong, state, there, x, plan=plan).ok


def test_a_file_of_tflite_without_an_interpreter(monkeypatch):
    from jlayers.interop.references import tflite

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(tflite.importlib, "import_module", missing)
    with pytest.raises(jl.InteropError) as raised:
        verify(MODEL, PARAMS, {}, "net.tflite", X)
    text = str(raised.value)
    assert "a file of TensorFlow Lite is run by ai-edge-litert, which is not installed" in text
    assert "pip install ai-edge-litert, or activations recorded where it is" in text


def test_trees_that_do_not_fit_are_those_of_the_users_model():
    model = jl.serial(jl.Dense(3), jl.BatchNorm())
    params, _ = model.init(jax.random.key(0), X)
    with pytest.raises(jl.LayerError) as caught:
        verify(model, params, {}, {"output": X[:, :3]}, X)
    assert "serial: state does not fit the model: 2 missing" in str(caught.value)
    assert caught.value.layer == "serial(Dense(3), BatchNorm())"
    with pytest.raises(jl.LayerError, match="state must be a tree of arrays"):
        verify(model, params, None, {"output": X[:, :3]}, X)
