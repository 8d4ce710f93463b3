"""Models with several outputs beside their originals: each is compared, and named."""

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
W = {name: RANDOM.standard_normal((4, 4)).astype("float32") for name in ("a", "b")}
PARAMS = {name: {"kernel": kernel} for name, kernel in W.items()}
A, B = (X @ W[name] for name in ("a", "b"))


def two(give):
    """A model of two layers beside each other."""
    layer = jl.Dense(4, bias=False)
    return jl.compose(lambda f, x: give(f.a(x), f.b(x)), a=layer, b=layer)


TUPLE = two(lambda a, b: (a, b))
NAMED = two(lambda a, b: {"logits": a, "hidden": {"last": b}})
ROW = "(output) "
# The model, what was recorded, and the pairs of outputs.
CASES = {
    "tuples": (TUPLE, {"output": (A, B)}, [("0", "0"), ("1", "1")]),
    "names in a file": (
        NAMED,
        {"output.hidden.last": B, "output.logits": A},
        [("hidden.last", "hidden.last"), ("logits", "logits")],
    ),
    "dicts": (
        NAMED,
        {"output": {"logits": A, "hidden": {"last": B}}},
        [("hidden.last", "hidden.last"), ("logits", "logits")],
    ),
    "names against places": (TUPLE, {"output": {"y": B, "z": A}}, [("0", "z"), ("1", "y")]),
    "fewer here": (two(lambda a, b: b), {"output": (A, B)}, [("", "1")]),
    "fewer there": (TUPLE, {"output": B}, [("1", "")]),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_paired(name):
    model, there, pairs = CASES[name]
    report = verify(model, PARAMS, {}, there, X)
    report.check()
    labels = [tuple(name and ROW + name for name in pair) for pair in pairs]
    assert [(row.path, row.theirs) for row in report.outputs] == labels
    assert (ROW + "0" in report.unpaired) == (name == "fewer there")
    # Theirs that ours lacks is that of a layer inside.
    assert report.theirs_unpaired == ()


def test_the_output_that_departs_is_named():
    report = verify(TUPLE, PARAMS, {}, {"output": (A, 2 * B)}, X)
    # What is inside has no other counterpart than the outputs.
    assert [row.ok for row in report.outputs] == [True, False]
    assert report.output.path == ROW + "1"
    assert "(output) 1" in str(report)
    report = verify(TUPLE, PARAMS, {}, {"a": A, "b": B, "output": (B, A)}, X)
    with pytest.raises(jl.InteropError) as raised:
        report.check()
    text = str(raised.value)
    assert "the output '0' departs from '(output) 0' of recorded activations" in text
    assert "departing: output '0', output '1'" in text


ERRORS = {
    "another shape": (TUPLE, {"output": (A, B[:, :3])}, ["the output '1' has", "[6, 3]", "[6, 4]"]),
    "no numbers": (
        two(lambda a, b: a[:0]),
        {"output": A},
        ["no numbers to compare", "float32[0, 4]"],
    ),
    "no arrays": (two(lambda a, b: ()), {"output": A}, ["no numbers to compare", "no arrays"]),
    "text": (TUPLE, {"name": "net", "output": A}, ["'name' is not an array of numbers", "str"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    model, there, texts = ERRORS[name]
    with pytest.raises(jl.InteropError) as raised:
        verify(model, PARAMS, {}, there, X)
    for text in texts:
        assert text in str(raised.value)


@pytest.mark.oracle("Keras")
def test_keras_with_several_inputs_and_outputs():
    one, other = keras.Input((4,), name="one"), keras.Input((3,), name="other")
    a, b = keras.layers.Dense(4, name="a")(one), keras.layers.Dense(4, name="b")(other)
    net = keras.Model([one, other], {"sum": a + b, "b": b})
    params = {
        name: {"kernel": np.asarray(layer.kernel), "bias": np.asarray(layer.bias)}
        for name in ("a", "b")
        for layer in [net.get_layer(name)]
    }

    def give(f, xs):
        a, b = f.a(xs[0]), f.b(xs[1])
        return {"sum": a + b, "b": 2 * b}

    model = jl.compose(give, a=jl.Dense(4), b=jl.Dense(4))
    report = verify(model, params, {}, net, (jl.spec((2, 4)), jl.spec((2, 3))))
    assert [(row.path, row.ok) for row in report.outputs] == [
        (ROW + "b", False),
        (ROW + "sum", True),
    ]
    assert report.first.path == ROW + "b"


def test_onnx_with_several_outputs():
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4])  # noqa: E731
    nodes = [helper.make_node("Tanh", ["x"], ["y"]), helper.make_node("Neg", ["y"], ["z"])]
    graph = helper.make_graph(nodes, "net", [value("x")], [value("z"), value("y")])
    onnx = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    report = verify(jl.serial(jnp.tanh, lambda y: {"y": y, "z": -y}), {}, {}, onnx, X)
    report.check()
    assert [row.theirs for row in report.outputs] == [ROW + "y", ROW + "z"]
    assert not verify(jl.serial(jnp.tanh, lambda y: {"y": y, "z": y}), {}, {}, onnx, X).ok


def test_a_carry_is_an_output_too():
    model = jl.carried(jl.GRU(3))
    x = RANDOM.standard_normal((2, 5, 4)).astype("float32")
    params, state = model.init(jax.random.key(0), x)
    y, carry = model.apply(params, state, x)[0]
    last = jax.tree.leaves(carry)[0]
    report = verify(model, params, state, {"output": (y, last)}, x)
    report.check()
    assert len(report.outputs) == 2
    assert not verify(model, params, state, {"output": (y, 2 * last)}, x).ok
