"""ONNX's models, written by the package onnx, whose own reader says what is in them."""

import os

import numpy as np
import pytest
from oracles import mutations

import jlayers as jl

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

FLOAT = onnx.TensorProto.FLOAT
TEXT = {"STRING", "UNDEFINED"}
TYPES = {name: kind for name, kind in onnx.TensorProto.DataType.items() if name not in TEXT}
W = np.arange(12, dtype=np.float32).reshape(3, 4) / 7


def named(array, name):
    return numpy_helper.from_array(np.asarray(array), name)


def constant(name, **attribute):
    return helper.make_node("Constant", [], [name], **attribute)


def graph(nodes=(), initialisers=(), name="main"):
    return helper.make_graph(list(nodes), name, [], [], list(initialisers))


def model(nodes=(), initialisers=(), **others):
    return helper.make_model(graph(nodes, initialisers), producer_name="tests", **others)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def read(path, proto):
    path.write_bytes(proto.SerializeToString())
    return jl.interop.read(path)


def same(got, want):
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("name", TYPES)
def test_every_type_raw_and_as_numbers(path, name):
    """Five elements, so that the last byte of small types is not full."""
    values = [1, 0, 1, 1, 0] if name == "BOOL" else [1, 0, 1, 2, 1]
    numbers = helper.make_tensor("numbers", TYPES[name], [5, 1], values)
    raw = numpy_helper.from_array(numpy_helper.to_array(numbers), "raw")
    arrays = read(path, model(initialisers=[numbers, raw]))
    assert list(arrays) == ["numbers", "raw"]
    for tensor in (numbers, raw):
        same(arrays[tensor.name], numpy_helper.to_array(tensor))


def test_extremes_scalars_and_nothing(path):
    """Negative numbers take ten bytes; more than a chunk of them are read in several."""
    many = np.random.default_rng(0).integers(-(2**62), 2**62, 20_000) >> np.arange(20_000) % 63
    limits = np.array([-(2**63), 2**63 - 1, -1, 0])
    tensors = [
        helper.make_tensor("many", onnx.TensorProto.INT64, many.shape, many),
        helper.make_tensor("limits", onnx.TensorProto.INT64, [2, 2], limits),
        helper.make_tensor("small", onnx.TensorProto.INT8, [3], [-128, 127, -1]),
        helper.make_tensor("scalar", FLOAT, [], [2.5]),
        helper.make_tensor("nothing", FLOAT, [0, 3], []),
        helper.make_tensor("text", onnx.TensorProto.STRING, [1], [b"left out"]),
    ]
    arrays = read(path, model(initialisers=tensors))
    assert list(arrays) == ["many", "limits", "small", "scalar", "nothing"]
    for tensor in tensors[:-1]:
        same(arrays[tensor.name], numpy_helper.to_array(tensor))


def test_weights_are_mapped_from_the_file(path):
    arrays = read(path, model(initialisers=[named(W, "w")]))
    assert not arrays["w"].flags.owndata
    assert not arrays["w"].flags.writeable
    assert np.shares_memory(arrays["w"], arrays["w"])
    assert "w" in arrays
    assert "x" not in arrays


def test_constants_branches_and_functions(path):
    """Names of branches are as they are, unless another graph has used them."""
    then = graph([constant("k", value=named(W, "other"))], [named(W + 1, "only")], "body")
    otherwise = graph([constant("k", value=named(W + 2, ""))], name="body")
    nodes = [
        constant("tensor", value=named(W + 3, "")),
        constant("float", value_float=0.5),
        constant("floats", value_floats=[0.5, 1.5]),
        constant("int", value_int=-3),
        constant("ints", value_ints=[-3, 4]),
        constant("text", value_string="left out"),
        helper.make_node("If", ["c"], ["y"], "choice", then_branch=then, else_branch=otherwise),
    ]
    function = helper.make_function(
        "here",
        "Scale",
        ["x"],
        ["k"],
        [constant("k", value_float=9.0)],
        [helper.make_opsetid("", 18)],
    )
    arrays = read(path, model(nodes, [named(W, "w")], functions=[function]))
    want = {
        "tensor": W + 3,
        "float": np.float32(0.5),
        "floats": np.float32([0.5, 1.5]),
        "int": np.int64(-3),
        "ints": np.int64([-3, 4]),
        # Attributes are in the order of their names.
        "k": W + 2,
        "choice/then_branch/k": W,
        "only": W + 1,
        "w": W,
        "Scale/k": np.float32(9),
    }
    assert list(arrays) == list(want)
    for name, array in want.items():
        same(arrays[name], np.asarray(array))


def external(path, location="weights.bin", **said):
    tensor = onnx.TensorProto(name="w", data_type=FLOAT, dims=W.shape, data_location=1)
    for key, value in {"location": location, **said}.items():
        tensor.external_data.add(key=key, value=str(value))
    return read(path, model(initialisers=[tensor]))


def test_external_data(path, tmp_path):
    onnx.save(
        model(initialisers=[named(W, "a"), named(W + 1, "b")]),
        path,
        save_as_external_data=True,
        location="all.bin",
        size_threshold=0,
    )
    arrays = jl.interop.read(path)
    same(arrays["a"], W)
    same(arrays["b"], W + 1)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(bytes(16) + W.tobytes())
    same(external(path, "sub/w.bin", offset=16)["w"], W)
    same(external(path, "sub/w.bin", offset=16, length=48)["w"], W)
    os.symlink(tmp_path / "sub" / "w.bin", tmp_path / "linked.bin")
    same(external(path, "linked.bin", offset=16)["w"], W)


IN_FOLDER = "must have its data in a file in the folder of the model"
# Where the data is said to be, and what else.
WRONG_EXTERNAL = {
    "above": ({"location": "../secret.bin"}, ["'w' " + IN_FOLDER, "which is elsewhere"]),
    "absolute": ({"location": "{folder}/here.bin"}, [IN_FOLDER, "which is elsewhere"]),
    "link": ({"location": "link.bin"}, [IN_FOLDER, "'link.bin', which is elsewhere"]),
    "linked folder": ({"location": "up/secret.bin"}, [IN_FOLDER, "which is elsewhere"]),
    "loop": ({"location": "loop.bin"}, [IN_FOLDER, "'loop.bin', which"]),
    "folder": ({"location": "."}, [IN_FOLDER, "which is not a file"]),
    "nowhere": ({"location": "none.bin"}, [IN_FOLDER, "which is not a file"]),
    "unnamed": ({"location": ""}, [IN_FOLDER]),
    "name": ({"location": "a\0b"}, [IN_FOLDER, "null"]),
    "offset": (
        {"offset": 8},
        ["here.bin: the graph, initialiser 'w' of ", "must be in the file", "8 to 56"],
    ),
    "negative": ({"offset": -8}, ["must have a number as offset", "'-8'"]),
    "number": ({"offset": "9" * 5000}, ["must have a number as offset"]),
    "length": ({"length": 44}, ["as many bytes as its shape needs", "expected: 48 for", "44"]),
}


@pytest.mark.parametrize("case", WRONG_EXTERNAL)
def test_external_data_elsewhere_is_refused(tmp_path, case):
    said, parts = WRONG_EXTERNAL[case]
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(W.tobytes())
    (folder / "here.bin").write_bytes(W.tobytes())
    os.symlink("../secret.bin", folder / "link.bin")
    os.symlink("..", folder / "up")
    os.symlink("loop.bin", folder / "loop.bin")
    said = {"location": "here.bin", **said}
    said["location"] = said["location"].format(folder=folder)
    with pytest.raises(jl.InteropError) as caught:
        external(folder / "model.onnx", **said)
    for part in parts:
        assert part in str(caught.value)


def changed(**fields):
    tensor = named(W, "w")
    for name, value in fields.items():
        if name == "dims":
            del tensor.dims[:]
            tensor.dims.extend(value)
        elif name == "segment":
            tensor.segment.begin = value
        else:
            setattr(tensor, name, value)
    return model(initialisers=[tensor])


def sparse():
    values = helper.make_sparse_tensor(named(np.float32([1]), "w"), named([3], "i"), [2**40])
    return model([constant("k", sparse_value=values)])


def deep(levels):
    """Graphs in graphs, deeper than the package writes them."""

    def field(tag, content):
        size = bytes([len(content) & 127 | 128, len(content) >> 7])
        return bytes([tag]) + size + content

    inner = b""
    for _ in range(levels):
        inner = field(0x0A, field(0x2A, field(0x32, inner)))
    return b"\x08\x09" + field(0x3A, inner)


def sparse_initialiser():
    proto = model()
    values = helper.make_sparse_tensor(named(np.float32([1]), "w"), named([3], "i"), [8])
    proto.graph.sparse_initializer.append(values)
    return proto


def without_data():
    tensor = onnx.TensorProto(name="w", data_type=FLOAT, dims=[1 << 38])
    return model(initialisers=[tensor])


def too_few(kind, values):
    tensor = helper.make_tensor("w", kind, [len(values)], values)
    tensor.dims[0] += 1
    return model(initialisers=[tensor])


NAME = "must have a name of its own"
WRONG = {
    "size": (changed(dims=[3, 5]), ["'w' must have as many bytes as its shape needs", "60", "48"]),
    "bomb": (without_data(), ["as many bytes as its shape needs", "expected: 1099511627776", "0"]),
    "numbers": (
        too_few(onnx.TensorProto.INT32, [1, 2]),
        ["as many numbers as its shape", "3", "2"],
    ),
    "floats": (too_few(FLOAT, [1, 2]), ["as many bytes as its shape needs", "12 for", "8"]),
    "negative": (changed(dims=[-3, -4]), ["must have a shape that an array can have", "(-3, -4)"]),
    "axes": (changed(dims=[1] * 65), ["must have a shape", "65 axes"]),
    "large": (changed(dims=[0, 2**39, 2**39]), ["must have a shape that an array can have"]),
    "type": (changed(data_type=99), ["'w' must have a type that is known", "type 99"]),
    "untyped": (changed(data_type=0), ["must have a type that is known", "type 0"]),
    "segment": (changed(segment=1), ["must be whole", "a segment"]),
    "nameless": (changed(name=""), ["initialiser must have a name"]),
    "twice": (model(initialisers=[named(W, "w")] * 2), [NAME, "got:      'w'"]),
    "sparse": (sparse(), ["node 'k', attribute must be dense"]),
    "sparse initialiser": (sparse_initialiser(), ["the graph must be dense"]),
    "no graph": (onnx.ModelProto(ir_version=9, producer_name="tests"), ["must have a graph"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_model_must_not_say(path, case):
    proto, parts = WRONG[case]
    with pytest.raises(jl.InteropError) as caught:
        read(path, proto)
    for part in (str(path), *parts):
        assert part in str(caught.value)


# Bytes of a model; 3a is field 7, the graph.
BYTES = {
    "deep": (deep(33), "must be at most 32 graphs deep"),
    "group": (b"\x08\x09\x3b", "the model must be a message of Protocol Buffers"),
    "beyond": (b"\x08\x09\x3a\x7f\x00", "the model must end at byte 5"),
    "number": (b"\x08\x09\x3a" + b"\xff" * 20, "the model must end its numbers"),
    "kind": (b"\x08\x09\x12\x00\x38\x01", "the model must have field 7 of kind 2"),
    "text": (b"\x08\x09\x3a\x04\x0a\x02\x1a\x00", "must have a graph"),
    "utf-8": (b"\x08\x09\x3a\x05\x0a\x03\x22\x01\xff", "the graph, node must be UTF-8"),
    "varint": (b"\x08\x09\x3a\x0f\x2a\x0d\x0a\x0b" + b"\xff" * 11, "numbers of at most 10 bytes"),
}


@pytest.mark.parametrize("case", BYTES)
def test_damaged_bytes(path, case):
    content, text = BYTES[case]
    path.write_bytes(content)
    if case == "text":
        assert list(jl.interop.read(path)) == []
        return
    with pytest.raises(jl.InteropError, match=text):
        jl.interop.read(path)


def test_a_model_is_recognised_without_its_suffix(tmp_path):
    assert list(read(tmp_path / "model", model(initialisers=[named(W, "w")]))) == ["w"]


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.soak)])
def test_mutations(path, count):
    then = graph([constant("k", value=named(W, ""))], [named(W, "only")])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=graph())
    numbers = helper.make_tensor("numbers", onnx.TensorProto.INT4, [5], [1, 2, 3, 4, 5])
    inside = [named(W, "w"), numbers, helper.make_tensor("i", 7, [3], [1, -1, 300])]
    path.write_bytes(model([choice], inside).SerializeToString())
    assert mutations.check(path, count, "onnx") > count / 4
