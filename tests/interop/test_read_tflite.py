"""Models of TensorFlow Lite, from their schema; the numbers of quantised ones by hand."""

import numpy as np
import pytest

pytest.importorskip("flatbuffers")

from oracles import mutations
from oracles.tflite_files import KINDS, Writer, model, stored, values

import jlayers as jl

W = np.arange(12, dtype=np.float32).reshape(3, 4) / 7


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.tflite"


def read(path, content):
    path.write_bytes(content)
    return jl.interop.read(path)


@pytest.mark.parametrize("name", KINDS)
def test_every_type(path, name):
    """Of 15 elements, so that the last byte of small types is not full."""
    array = values(name)
    arrays = read(path, model(("a", array), ("w", W)))
    assert list(arrays) == ["a", "w"]
    np.testing.assert_array_equal(arrays["a"], array, strict=True)
    assert arrays["a"].tobytes() == array.tobytes()
    assert not arrays["w"].flags.owndata


Q = np.array([[-128, -1, 0, 127], [5, 6, 7, 8], [9, 10, 11, 12]])
BY_ROW = {"scale": [0.5, 0.25, 1 / 3], "zero": [0, 3, -7]}
# A dtype, what it is quantised by, and the scale and zero point of each element.
QUANTISED = {
    "tensor": ("int8", {"scale": [0.1], "zero": [3]}, np.float32(0.1), 3),
    "without zero": ("int8", {"scale": [0.1]}, np.float32(0.1), 0),
    "uint8": ("uint8", {"scale": [0.1], "zero": [128]}, np.float32(0.1), 128),
    "int16": ("int16", {"scale": [0.1], "zero": [0]}, np.float32(0.1), 0),
    "int4": ("int4", {"scale": [0.1], "zero": [0]}, np.float32(0.1), 0),
    "channels": ("int8", BY_ROW, np.float32([[0.5], [0.25], [1 / 3]]), [[0], [3], [-7]]),
    "one zero": (
        "int8",
        {"scale": BY_ROW["scale"], "zero": [2]},
        np.float32([[0.5], [0.25], [1 / 3]]),
        2,
    ),
    "last": ("int8", {"scale": [1, 2, 3, 4], "axis": 1}, np.float32([1, 2, 3, 4]), 0),
    "bias": ("int32", {"scale": [1e-6], "zero": [0]}, np.float32(1e-6), 0),
}


@pytest.mark.parametrize("case", QUANTISED)
def test_quantised_numbers_are_the_floats_they_are(path, case):
    name, quantization, scale, zero = QUANTISED[case]
    array = (Q * 10_000_001 if name == "int32" else Q).astype(values(name).dtype)
    arrays = read(path, model(("w", array, {"quantization": quantization})))
    want = (array.astype(np.float64) - zero) * np.float64(scale)
    np.testing.assert_array_equal(arrays["w"], want.astype(np.float32), strict=True)


def test_floats_have_no_scale(path):
    """A float16 model may say how it would be quantised."""
    half = values("float16")
    arrays = read(path, model(("w", half, {"quantization": {"scale": [0.5]}})))
    np.testing.assert_array_equal(arrays["w"], half, strict=True)


def test_scalars_variables_strings_and_tensors_without_data(path):
    entries = [("s", np.int32(7)), ("v", ((2,), 0, b"")), ("text", ((1,), 5, b"abcd"))]
    arrays = read(path, model(*entries))
    assert list(arrays) == ["s"]
    np.testing.assert_array_equal(arrays["s"], np.int32(7))


def test_names_of_loops_and_names_used_twice(path):
    writer = Writer()
    buffers = [writer.buffer(b""), *(writer.buffer(stored(W + i)) for i in range(2))]

    def tensors(numbers):
        return [writer.tensor("w", W.shape, 0, number) for number in numbers]

    graphs = [
        writer.subgraph(tensors([1, 2, 1])),
        writer.subgraph(tensors([2]), "body"),
        writer.subgraph(tensors([1]), ""),
    ]
    arrays = read(path, writer.finish(graphs, buffers))
    assert list(arrays) == ["w", "w:1", "w:2", "body/w", "2/w"]
    np.testing.assert_array_equal(arrays["body/w"], W + 1, strict=True)
    assert np.shares_memory(arrays["w"], arrays["w:2"])


def distant(size):
    """Buffers after the tables, as in models of more than 2 GB."""
    writer = Writer()
    buffers = [writer.buffer(b""), writer.distant_buffer(1 << 10, size)]
    return writer.finish([writer.subgraph([writer.tensor("w", W.shape, 0, 1)])], buffers)


def test_buffers_after_the_tables(path):
    content = distant(48)
    arrays = read(path, content + bytes((1 << 10) - len(content)) + W.tobytes())
    np.testing.assert_array_equal(arrays["w"], W, strict=True)


def quantised(**quantization):
    return model(("w", Q.astype(np.int8), {"quantization": quantization}))


def shared_tables():
    writer = Writer()
    buffers = [writer.buffer(b"")]
    graph = writer.subgraph([writer.tensor("w", (1,), 0, 0)] * 3)
    return writer.finish([graph], buffers)


def buffer_number():
    writer = Writer()
    graph = writer.subgraph([writer.tensor("w", (1,), 0, 9)])
    return writer.finish([graph], [writer.buffer(b"")])


def same_key():
    writer = Writer()
    buffers = [writer.buffer(b""), writer.buffer(stored(W))]
    names = ["w:2", "w", "w"]
    return writer.finish(
        [writer.subgraph([writer.tensor(name, W.shape, 0, 1) for name in names])], buffers
    )


PLACE = "subgraph 0, tensor 1 'w'"
WRONG = {
    "size": (
        model(("w", ((3, 5), 0, W.tobytes()))),
        [PLACE + " must have as many bytes as its shape needs", "60 for float32 of shape", "48"],
    ),
    "type": (
        model(("w", ((12,), 99, bytes(12)))),
        [PLACE + " must have a type that is known", "99"],
    ),
    "shape": (model(("w", ((-3, -4), 0, bytes(48)))), ["must have a shape that an array can have"]),
    "sparse": (model(("w", W, {"sparse": True})), [PLACE + " must be dense", "a sparse tensor"]),
    "details": (quantised(details=2), ["must be quantised per tensor or per channel"]),
    "scales": (quantised(scale=[1, 2]), ["must have 1 or 3 scales, by axis 0", "got:      2"]),
    "zeros": (quantised(scale=[1], zero=[0] * 4), ["must have 1 or 3 zero points", "got:      4"]),
    "axis": (quantised(scale=[1, 2, 3], axis=7), ["must have 1 or 1 scales, by axis 7"]),
    "finite": (quantised(scale=[np.inf]), ["must have finite scales", "inf"]),
    "buffer": (buffer_number(), ["tensor 0 'w' must have one of 1 buffers", "got:      9"]),
    "distant": (distant(1 << 40), ["buffer 1 must be in the file", "bytes 1024 to"]),
    "shared": (shared_tables(), ["subgraph 0 must have 3 tables of subgraph 0, tensor", "fewer"]),
    "name": (same_key(), ["tensor 2 'w' must have a name of its own"]),
    "root": (b"\xff\xff\xff\x7fTFL3" + bytes(40), ["the model must be in the file"]),
    "layout": (
        b"\x08\0\0\0TFL3" + bytes(40),
        ["the model must have a table of fields", "0 bytes of it"],
    ),
    "name of bytes": (
        model(("wwww", W)).replace(b"wwww", b"w\xff\xffw"),
        ["tensor 1 must be UTF-8"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_model_must_not_say(path, case):
    content, parts = WRONG[case]
    with pytest.raises(jl.InteropError) as caught:
        read(path, content)
    for part in (str(path), *parts):
        assert part in str(caught.value)


def test_another_format_is_refused(path):
    path.write_bytes(bytes(40))
    with pytest.raises(jl.InteropError, match="the model must begin with b'TFL3'"):
        jl.interop.read(path, format="tflite")


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.soak)])
def test_mutations(path, count):
    by_row = {"quantization": BY_ROW}
    entries = [("w", W), ("q", Q.astype(np.int8), by_row), ("four", values("int4"), by_row)]
    path.write_bytes(model(*entries))
    assert mutations.check(path, count, "tflite") > count / 4
