"""A file of TensorFlow Lite beside ours, run by its interpreter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.tflite_files import FULLY_CONNECTED, TANH, network

import jlayers as jl

pytest.importorskip("ai_edge_litert")
pytestmark = [pytest.mark.conformance, pytest.mark.oracle("LiteRT")]
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((3, 4)).astype("float32")
ARRAYS = {
    name: RANDOM.standard_normal(shape).astype("float32")
    for name, shape in {"w": (5, 4), "b": (5,), "w2": (5, 5), "b2": (5,)}.items()
}
DENSE = (FULLY_CONNECTED, ["x", "w", "b"], "first", (1, 5))
NET = [DENSE, (TANH, ["first"], "act", (1, 5)), (FULLY_CONNECTED, ["act", "w2", "b2"], "y", (1, 5))]
MODEL = jl.serial(jl.Dense(5), jnp.tanh, jl.Dense(5))


def params_of():
    return {
        "dense": {"kernel": ARRAYS["w"].T, "bias": ARRAYS["b"]},
        "dense_1": {"kernel": ARRAYS["w2"].T, "bias": ARRAYS["b2"]},
    }


def test_layers_are_compared_and_the_first_departs(tmp_path):
    content = network(ARRAYS, (1, 4), NET, ["y"])
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    plan = jl.interop.match(MODEL, X, jl.interop.read(path))
    params, state = plan.load()
    # Of another size of the batch than the file says.
    for reference in path, content:
        report = jl.interop.verify(MODEL, params, state, reference, X, plan=plan)
        report.check()
    assert [(row.path, row.theirs) for row in report.rows] == [
        ("dense", "first"),
        ("tanh", "act"),
        ("dense_1", ""),
        ("", ""),
    ]
    kernel = params["dense_1"]["kernel"].T
    wrong = params | {"dense_1": params["dense_1"] | {"kernel": kernel}}
    report = jl.interop.verify(MODEL, wrong, state, path, X, plan=plan)
    assert report.first.path == "dense_1"
    assert report.hint == "it agrees with 'kernel' transposed"


def test_several_outputs_and_named_inputs():
    content = network(ARRAYS, (3, 4), NET, ["act", "y"])
    model = jl.serial(
        jl.Dense(5), jl.compose(lambda f, x: (f.b(jnp.tanh(x)), jnp.tanh(x)), b=jl.Dense(5))
    )
    params = params_of()
    params = {"dense": params["dense"], "compose": {"b": params["dense_1"]}}
    named = lambda x: {"x": x}  # noqa: E731
    report = jl.interop.verify(model, params, {}, content, X, to_reference=named)
    report.check()
    pairs = [(row.path, row.theirs) for row in report.outputs]
    assert pairs == [("(output) 0", "(output) y"), ("(output) 1", "(output) act")]


def test_quantised_activations_are_floats():
    quantised = {"scale": [1 / 128], "zero": [0]}
    content = network({}, (3, 4), [(TANH, ["x"], "y", (3, 4))], ["y"], quantised)
    x = jax.random.uniform(jax.random.key(0), (3, 4), minval=-0.9, maxval=0.9)
    report = jl.interop.verify(jl.serial(jnp.tanh), {}, {}, content, x, tolerance=2e-2)
    report.check()
    assert report.output.difference > 0


ERRORS = {
    "number": (lambda x: (x, x), ["takes 1 inputs, and got 2", "expected: x [1 4]"]),
    "name": (lambda x: {"z": x}, ["other inputs", "expected: x", "got:      z"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    to_reference, texts = ERRORS[name]
    content = network(ARRAYS, (1, 4), NET, ["y"])
    with pytest.raises(jl.InteropError) as raised:
        jl.interop.verify(MODEL, params_of(), {}, content, X, to_reference=to_reference)
    for text in texts:
        assert text in str(raised.value)
