"""What cannot be an ONNX graph is refused by name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl

VECTOR = jl.spec((3, 4))


def refusal(layer, spec=VECTOR, **options):
    layer = jl.lift(layer)
    params, state = layer.init(jax.random.key(0), spec)
    with pytest.raises(jl.InteropError) as caught:
        jl.export.onnx(layer, params, state, spec, **options)
    return "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


def test_a_primitive_without_a_form_is_named_with_its_layer():
    svd = jl.lift(lambda x: jnp.linalg.svd(x, compute_uv=False))
    text = refusal(jl.serial(jl.Dense(4), body=jl.serial(jnp.tanh, inner=svd)))
    assert "the primitive 'svd' has no form in ONNX here" in text
    assert "body/inner" in text
    assert "of parameters alone, which are worked out beforehand" in text
    text = refusal(lambda x: x + jax.random.normal(jax.random.key(0), (1, 4)))
    assert "the primitive 'random_" in text
    assert "no random numbers as JAX draws them" in text
    text = refusal(lambda x: jax.pure_callback(lambda x: x, x, x))
    assert "a function that runs in Python cannot be in a file" in text


def test_a_path_in_another_place():
    layer = jl.lift(jnp.tanh)
    for given in ((layer, {}, VECTOR, "net.onnx"), ("net.onnx", layer, {}, {}, VECTOR)):
        with pytest.raises(
            jl.InteropError, match="a path is where the model or its input"
        ) as raised:
            jl.export.onnx(*given[:4])
        assert "onnx(model, params, state, x, path)" in str(raised.value)


def test_a_function_of_some_places():
    text = refusal(lambda x: x.at[:, jnp.argmax(x, 1)].apply(jnp.tanh))
    assert "scatter cannot be written in ONNX: a function of places that may be there" in text
    assert "x.at[i].set(function(x[i]))" in text


def test_complex_inputs_and_outputs():
    assert "the output 'y' is complex" in refusal(lambda x: jax.lax.complex(x, x))
    text = refusal(jnp.real, jl.spec((3, 4), jnp.complex64))
    assert "the input 'x' is complex: ONNX has real inputs alone" in text
    text = refusal(lambda x: jnp.real(jnp.tanh(jax.lax.complex(x, x))))
    assert "tanh cannot be written in ONNX: complex numbers" in text


def test_sizes_that_differ_are_not_one():
    spec = (jl.spec((3, 4)), jl.spec((2, 4)))
    text = refusal(lambda xs: xs[0].sum() + xs[1].sum(), spec)
    assert "axis 0 of the inputs has several sizes, which cannot all be 'b'" in text
    assert "x/0: 3, x/1: 2" in text


def test_a_size_that_no_input_has():
    n, m = jax.export.symbolic_shape("n, m")
    spec = jax.ShapeDtypeStruct((n * m, 4), jnp.float32)
    layer = jl.lift(lambda x: jnp.broadcast_to(x[:1], (n, 4)) * x.sum())
    with pytest.raises(jl.InteropError, match="the size 'n' is not the size of any input's axis"):
        jl.export.onnx(layer, {}, {}, spec)


def test_arguments():
    with pytest.raises(jl.InteropError, match="x must be a spec of the input"):
        jl.export.onnx(jl.Dense(3), {}, {})
    assert "the model has no output" in refusal(lambda x: {})
    text = refusal(jl.Dense(3), opset=11)
    assert re.search(r"opset must be an int from 20 to \d+, got 11", text)


def test_a_graph_that_computes_something_else_is_refused(monkeypatch):
    from jlayers.export.to_onnx.call import EMITTERS

    monkeypatch.setitem(EMITTERS, "tanh", lambda call: call.op("Sigmoid", call.arg(0)))
    model = jl.serial(jl.Dense(4), body=jl.serial(jl.Dense(4), inner=jl.lift(jnp.tanh)))
    text = refusal(jl.serial(model, jl.LSTM(2)), jl.spec((3, 5, 4)))
    assert "the output 'y' is not the model's in onnxruntime" in text
    assert "4.0e-01 apart, of 2.6e-01, for sizes {'b': 3}" in text
    assert "the first to depart: serial/body/inner, at tanh" in text


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    text = refusal(jl.Dense(3))
    assert "needs the package onnx" in text
    assert "pip install 'jlayers[onnx]'" in text


PATHS = {
    "none/model.onnx": "none is not a directory",
    "": "a directory",
    3: "path must be a str or a path, got int",
    "a\0b": "is not the name of a file",
}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_cannot_be_written_leaves_nothing(path, tmp_path):
    model = jl.Dense(2)
    x = jl.spec((1, 3))
    params, state = model.init(jax.random.key(0), x)
    given = f"{tmp_path}/{path}" if isinstance(path, str) else path
    with pytest.raises(jl.InteropError, match=PATHS[path]):
        jl.export.onnx(model, params, state, x, given, check=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("scale", "dtype"), [(1e-12, "float32"), (1e-6, "float16"), (0, "float32")]
)
def test_small_outputs_are_compared_by_their_own_scale(scale, dtype):
    from jlayers.export.to_onnx.runtime import differs

    expected = (scale * np.array([1.0, -2.0, 3.0])).astype(dtype)
    assert differs(expected, expected) is None
    assert differs(expected, expected[::-1] if scale else expected + 1e-9) is not None
    # What some processors take for 0 does not differ.
    assert (
        differs(np.zeros(3, dtype), np.full(3, 1e-39 if dtype == "float32" else 1e-7, dtype))
        is None
    )


def test_files_are_what_they_were_where_the_disk_is_full(tmp_path, monkeypatch, key):
    model, x = jl.Dense(300), jl.spec((1, 4))
    params, state = model.init(key, x)
    monkeypatch.setattr("jlayers.export.to_onnx.exporting._EXTERNAL", 1000)
    jl.export.onnx(model, params, state, x, tmp_path / "m.onnx", check=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("onnx.save_model", full)
    with pytest.raises(jl.InteropError, match="no space left"):
        jl.export.onnx(model, params, state, x, tmp_path / "m.onnx", check=False)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


INPUTS = {
    "a number": ((3, 4), {}, r"the input 'x/0' is 3[\s\S]*jl.spec\(\(3, 4\)\)"),
    "a key": (jax.eval_shape(lambda: jax.random.key(0)), {}, "the input 'x' is key"),
    "names of sizes": (VECTOR, {"batch": "b", "time": "b"}, "must be names of sizes, or None"),
    "a name that is a sum": (VECTOR, {"batch": "b + 1"}, "got:      batch='b \\+ 1', time=None"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_what_is_no_input(name):
    x, options, text = INPUTS[name]
    with pytest.raises(jl.InteropError, match=text):
        jl.export.onnx(jl.lift(jnp.tanh), {}, {}, x, **options)


def test_specs_of_parameters():
    params = {"kernel": jl.spec((4, 2)), "bias": jl.spec((2,))}
    with pytest.raises(jl.InteropError, match="must be arrays, got specs"):
        jl.export.onnx(jl.Dense(2), params, {}, VECTOR)


def test_a_function_that_wants_to_know_a_size():
    text = refusal(jl.serial(body=lambda x: x if x.shape[0] > 1 else -x))
    assert "the model cannot be traced with free sizes: b" in text
    assert "comparison 'b' > '1' is inconclusive" in text
    assert "batch=None and time=None" in text
    assert "body" in text
