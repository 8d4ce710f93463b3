"""Layers of ONNX and TensorFlow Lite: arrays are told by the operators, not by their names."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from oracles import tflite_files

import jlayers as jl
from jlayers.interop.formats.graph import GraphArrays, Node

RANDOM = np.random.default_rng(0)


def draw(*shape):
    return RANDOM.standard_normal(shape).astype("float32")


def onnx_file(path, x, *nodes):
    """A chain of (operator, arrays, attributes); returns what onnxruntime makes of ``x``.

    Arrays are called by numbers, as exporters do; ``X`` among them is the value of the chain, which
    comes first otherwise.
    """
    arrays, made, value = [], [], "x"
    for number, (operator, inputs, attributes) in enumerate(nodes):
        names = []
        for array in inputs if "X" in [i for i in inputs if isinstance(i, str)] else ("X", *inputs):
            if isinstance(array, str):
                names.append(value if array == "X" else array)
            else:
                names.append(f"onnx::{operator}_{len(arrays)}")
                arrays.append(numpy_helper.from_array(array, names[-1]))
        outputs = [f"y{number}"]
        made.append(helper.make_node(operator, names, outputs, **attributes))
        value = outputs[0]
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        made,
        "graph",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info(value, 1, None)],
        arrays,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return onnxruntime.InferenceSession(path).run(None, {"x": x})[0]


def first(x):
    return np.moveaxis(x, -1, 1)


X, IMAGE, STEPS = draw(4, 3), draw(2, 6, 5, 4), draw(5, 2, 3)
RNN = {"hidden_size": 4}


def gates(count, size=1):
    arrays = draw(size, 4 * count, 3), draw(size, 4 * count, 4)
    return [*arrays, draw(size, 8 * count)]


def outputs_of(steps):
    """(T, directions, B, H), from (B, T, directions * H)."""
    return np.stack(np.split(np.moveaxis(steps, 1, 0), steps.shape[-1] // 4, -1), 1)


ROWS = {
    "Gemm": (jl.Dense(3), X, X, [("Gemm", [draw(3, 3), draw(3)], {"transB": 1})], None),
    "MatMul": (
        jl.Dense(5),
        X,
        X,
        [("MatMul", [draw(3, 5)], {}), ("Add", [draw(5), "X"], {})],
        None,
    ),
    "Transpose": (
        jl.serial(jl.Dense(3, bias=False), jl.Dense(3)),
        X,
        X,
        [("MatMul", [draw(3, 3)], {}), ("Gemm", [draw(3, 3), draw(3)], {})],
        None,
    ),
    "Conv": (
        jl.Conv(6, (3, 2), groups=2, strides=2),
        IMAGE,
        first(IMAGE),
        [("Conv", [draw(6, 2, 3, 2), draw(6)], {"group": 2, "strides": [2, 2]})],
        first,
    ),
    "ConvTranspose": (
        jl.ConvTranspose(6, (3, 2), strides=2, groups=2),
        IMAGE,
        first(IMAGE),
        [("ConvTranspose", [draw(4, 3, 3, 2), draw(6)], {"group": 2, "strides": [2, 2]})],
        first,
    ),
    "norms": (
        jl.serial(jl.BatchNorm(), jl.Conv(4, 1), jl.PReLU()),
        IMAGE,
        first(IMAGE),
        [
            ("BatchNormalization", [draw(4), draw(4), draw(4), abs(draw(4))], {"epsilon": 1e-5}),
            ("Conv", [draw(4, 4, 1, 1)], {}),
            ("Add", [draw(1, 4, 1, 1)], {}),
            ("PRelu", [draw(1, 1, 1)], {}),
        ],
        first,
    ),
    "LayerNormalization": (
        jl.serial(jl.Affine(), jl.LayerNorm()),
        X,
        X,
        [("Mul", [draw(3)], {}), ("Add", [draw(3)], {}), ("LayerNormalization", [draw(3)] * 2, {})],
        None,
    ),
    "Gather": (
        jl.serial(jl.Embedding(7, 3), jl.PositionEmbedding(5)),
        np.arange(10).reshape(2, 5) % 7,
        np.arange(10).reshape(2, 5) % 7,
        [("Gather", [draw(7, 3), "X"], {}), ("Add", [draw(1, 5, 3)], {})],
        None,
    ),
}


FLAT = jl.serial(jl.Conv(2, 1), jl.Flatten(), jl.Dense(3))
ROWS |= {
    # Of the image (channels, 6, 5) there, and of (6, 5, channels) where it is turned first.
    "Flatten": (
        FLAT,
        IMAGE,
        first(IMAGE),
        [
            ("Conv", [draw(2, 4, 1, 1), draw(2)], {}),
            ("Flatten", [], {}),
            ("Identity", [], {}),
            ("Gemm", [draw(60, 3), draw(3)], {}),
        ],
        None,
    ),
    "Flatten of channels last": (
        FLAT,
        IMAGE,
        first(IMAGE),
        [
            ("Conv", [draw(2, 4, 1, 1), draw(2)], {}),
            ("Transpose", [], {"perm": [0, 2, 3, 1]}),
            ("Reshape", [np.array([0, -1])], {}),
            ("MatMul", [draw(60, 3)], {}),
            ("Add", [draw(3)], {}),
        ],
        None,
    ),
}


def swapped(x):
    return np.swapaxes(x, 0, 1)


def recurrent(layer, operator, count, size=1, **attributes):
    nodes = [(operator, gates(count, size), RNN | attributes)]
    return layer, swapped(STEPS), STEPS, nodes, outputs_of


BOTH = {"direction": "bidirectional"}
ROWS |= {
    "LSTM": recurrent(jl.bidirectional(jl.LSTM(4)), "LSTM", 4, 2, **BOTH),
    "GRU": recurrent(jl.GRU(4), "GRU", 3, linear_before_reset=1),
    "GRU before": recurrent(jl.GRU(4, reset_after=False), "GRU", 3),
    "RNN": recurrent(jl.SimpleRNN(4), "RNN", 1),
}


@pytest.mark.oracle("ONNX Runtime")
@pytest.mark.parametrize("row", ROWS)
def test_onnx(row, tmp_path):
    layer, x, theirs, nodes, moved = ROWS[row]
    want = onnx_file(tmp_path / "model.onnx", theirs, *nodes)
    plan = jl.interop.match(layer, x, jl.interop.read(tmp_path / "model.onnx"))
    assert plan.library == "onnx"
    y, _ = jax.jit(layer.apply)(*plan.load(), jnp.asarray(x))
    np.testing.assert_allclose(moved(np.asarray(y)) if moved else y, want, rtol=2e-5, atol=2e-6)


def test_a_plan_has_the_names_of_the_file(tmp_path):
    path = tmp_path / "model.onnx"
    onnx_file(path, X, ("Gemm", [draw(3, 5), draw(5)], {}), ("Mul", [draw(5)], {}))
    arrays = jl.interop.read(path)
    plan = jl.interop.match(jl.Dense(5), X, arrays)
    assert plan.matched[0].names == ("onnx::Gemm_0", "onnx::Gemm_1")
    assert plan.extra == ["onnx::Mul_2"]
    assert "onnx::Mul_2[5] goes nowhere" in str(plan)
    assert jl.interop.match(jl.Dense(5), X, arrays, rules=["onnx::Mul_2 ->"]).complete
    # What the operators are is lost in a dict, and the names say nothing.
    with pytest.raises(jl.InteropError, match="which operator takes an array") as error:
        jl.interop.match(jl.Dense(5), X, dict(arrays), library="onnx")
    assert "expected: the mapping that interop.read gives for a file of onnx" in str(error.value)


@pytest.mark.oracle("ONNX Runtime")
def test_arrays_that_the_graph_turns_before_they_are_used(tmp_path):
    """A bias may come as (1, n, 1, 1), and a kernel as halves: Paddle and float16 converters."""
    path = tmp_path / "model.onnx"
    arrays = {
        "half": draw(3, 4, 1, 1).astype("float16"),
        "kernel": draw(2, 3, 1, 1),
        "bias": draw(3),
        "sizes": np.array([1, -1, 1, 1]),
        "bias_1": draw(2),
        "axes": np.array([0, 2, 3]),
    }
    nodes = [
        helper.make_node("Cast", ["half"], ["whole"], to=1),
        helper.make_node("Conv", ["x", "whole"], ["y0"]),
        helper.make_node("Reshape", ["bias", "sizes"], ["wide"]),
        helper.make_node("Add", ["y0", "wide"], ["y1"]),
        helper.make_node("Conv", ["y1", "kernel"], ["y2"]),
        helper.make_node("Unsqueeze", ["bias_1", "axes"], ["wide_1"]),
        helper.make_node("Add", ["y2", "wide_1"], ["y3"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", 1, first(IMAGE).shape)],
        [helper.make_tensor_value_info("y3", 1, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    model = jl.serial(jl.Conv(3, 1), jl.Conv(2, 1))
    plan = jl.interop.match(model, IMAGE, jl.interop.read(path))
    params, state = plan.load()
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert plan.matched[0].names == ("half", "bias")
    y, _ = jax.jit(model.apply)(params, state, jnp.asarray(IMAGE))
    want = onnxruntime.InferenceSession(path).run(None, {"x": first(IMAGE)})[0]
    np.testing.assert_allclose(first(np.asarray(y)), want, rtol=2e-5, atol=2e-6)
    # What cannot be done is not done, and its array goes nowhere.
    graph.initializer[3].CopyFrom(numpy_helper.from_array(np.array([2, 2]), "sizes"))
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    assert jl.interop.match(model, IMAGE, jl.interop.read(path)).extra == ["half", "bias"]


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
def test_halves_of_tflite_are_what_the_graph_makes_of_them(half):
    nodes = [
        Node("DEQUANTIZE", ("half",), ("whole",), {}),
        Node("CONV_2D", ("x", "whole", "bias"), ("y",), {}),
    ]
    arrays = {"half": draw(3, 2, 2, 4).astype(half), "bias": draw(3)}
    plan = jl.interop.match(jl.Conv(3, 2), IMAGE, GraphArrays(arrays, "tflite", lambda: nodes))
    kernel = plan.load()[0]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, np.moveaxis(arrays["half"], 0, -1))


def test_clipped_cells_and_peepholes_are_not_taken_for_others(tmp_path):
    path = tmp_path / "model.onnx"
    onnx_file(path, STEPS, ("LSTM", gates(4), RNN | {"clip": 3.0}))
    plan = jl.interop.match(jl.LSTM(4), swapped(STEPS), jl.interop.read(path))
    assert not plan.matched
    assert len(plan.extra) == 3


def tflite_file(path, *operators):
    """Operators (code, arrays) after each other, each with its value and its arrays as inputs."""
    writer = tflite_files.Writer()
    buffers, tensors, made, value = [writer.buffer(b"")], [], [], 0
    tensors.append(writer.tensor("x", (1,), 0, 0))
    for number, (_, arrays) in enumerate(operators):
        inputs = [value]
        for array in arrays:
            inputs.append(len(tensors))
            kind = tflite_files.KINDS[array.dtype.name]
            tensors.append(writer.tensor(f"t{len(tensors)}", array.shape, kind, len(buffers)))
            buffers.append(writer.buffer(array.tobytes()))
        value = len(tensors)
        tensors.append(writer.tensor("", (1,), 0, 0))
        fields = {0: ("Uint32", number)}
        for field, numbers in ((1, inputs), (2, [value])):
            fields[field] = "Offset", writer.numbers(numbers, np.int32)
        made.append(writer.table(9, fields))
    codes = [writer.table(4, {0: ("Int8", code)}) for code, _ in operators]
    tables = {0: ("Offset", writer.vector(tensors)), 3: ("Offset", writer.vector(made))}
    graph = writer.table(6, tables)
    model = {
        0: ("Uint32", 3),
        1: ("Offset", writer.vector(codes)),
        2: ("Offset", writer.vector([graph])),
        4: ("Offset", writer.vector(buffers)),
    }
    writer.builder.Finish(writer.table(8, model), file_identifier=b"TFL3")
    path.write_bytes(bytes(writer.builder.Output()))


def test_tflite(tmp_path):
    """The layouts of its schema; whole networks are compared in examples/pretrained."""
    path = tmp_path / "model.tflite"
    kernel, depthwise, dense, turned = (
        draw(3, 2, 2, 4),
        draw(1, 2, 2, 3),
        draw(3, 3),
        draw(3, 2, 2, 3),
    )
    tflite_file(
        path,
        (3, [kernel, draw(3)]),
        (4, [depthwise, draw(3)]),
        (67, [turned]),
        (9, [dense, draw(3)]),
        (18, [draw(3)]),
        (0, [draw(3)]),
    )
    model = jl.serial(
        jl.Conv(3, 2),
        jl.Conv(3, 2, groups=3),
        jl.ConvTranspose(3, 2, bias=False),
        jl.Dense(3),
        jl.Affine(),
    )
    params, _ = jl.interop.match(model, IMAGE, jl.interop.read(path)).load()
    np.testing.assert_array_equal(params["conv"]["kernel"], np.moveaxis(kernel, 0, -1))
    np.testing.assert_array_equal(params["conv_1"]["kernel"][..., 0, :], depthwise[0])
    np.testing.assert_array_equal(params["dense"]["kernel"], dense.T)
    got = params["conv_transpose"]["kernel"]
    np.testing.assert_array_equal(got[::-1, ::-1], np.moveaxis(turned, 0, -1))


def test_a_cell_of_torch_keeps_its_names(tmp_path):
    """torch's exporter writes a cell as an LSTM whose gates are turned in the graph."""
    arrays = {"weight_ih": draw(16, 3), "weight_hh": draw(16, 4)}
    arrays |= {"bias_ih": draw(16), "bias_hh": draw(16)}
    nodes = [helper.make_node("Neg", [f"rnn.{name}"], [name]) for name in arrays]
    kept = [numpy_helper.from_array(array, f"rnn.{name}") for name, array in arrays.items()]
    outputs = [helper.make_tensor_value_info(name, 1, None) for name in arrays]
    path = tmp_path / "cell.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "graph", [], outputs, kept)), path)
    plan = jl.interop.match(jl.LSTM(4), jl.spec((1, 5, 3)), jl.interop.read(path))
    assert plan.library == "onnx"
    params, _ = plan.load()
    np.testing.assert_array_equal(params["kernel"], arrays["weight_ih"].T)
    np.testing.assert_array_equal(params["bias"], arrays["bias_ih"] + arrays["bias_hh"])
