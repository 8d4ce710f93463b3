"""GGUF files, written by the package gguf, whose own reader says what is in them."""

import struct
import sys

import ml_dtypes
import numpy as np
import pytest
from oracles import mutations

import jlayers as jl

gguf = pytest.importorskip("gguf")

TYPES = gguf.GGMLQuantizationType
RNG = np.random.default_rng(0)
W = RNG.normal(size=(3, 5)).astype(np.float32)
ROWS = RNG.normal(size=(3, 2, 256)).astype(np.float32)
# What the package can write as well as read, and an error of a number relative to the largest.
WRITTEN = {"Q4_0": 1 / 8, "Q4_1": 1 / 7, "Q5_0": 1 / 16, "Q5_1": 1 / 15, "Q8_0": 1 / 127}
READ = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ2_XXS", "TQ1_0", "MXFP4")
PLAIN = ("float32", "float16", "float64", "int8", "int16", "int32", "int64", "bfloat16")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


def write(path, tensors, *, alignment=None, order=gguf.GGUFEndian.LITTLE, **split):
    """Tensors by name: an array, or bytes in rows and the type that they are of."""
    writer = gguf.GGUFWriter(path, "llama", endianess=order, **split)
    writer.add_uint32("llama.block_count", 2)
    writer.add_array("tokenizer.ggml.tokens", ["a", "", "ünder", "☃"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5])
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for name, entry in tensors.items():
        array, kind = entry if isinstance(entry, tuple) else (entry, None)
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_blocks(kind, rows):
    _, size = gguf.GGML_QUANT_SIZES[kind]
    return RNG.integers(0, 256, (rows, 2 * size), np.uint8)


@pytest.mark.parametrize("name", PLAIN)
def test_numbers_are_mapped_from_the_file(path, name):
    if name == "bfloat16":
        array = W.astype(ml_dtypes.bfloat16)
        entry = (array.view(np.uint8), TYPES.BF16)
    else:
        array = entry = (W * 10).astype(name)
    arrays = jl.interop.read(write(path, {"blk.0.weight": entry, "b": W[0]}))
    assert list(arrays) == ["blk.0.weight", "b"]
    np.testing.assert_array_equal(arrays["blk.0.weight"], array, strict=True)
    np.testing.assert_array_equal(arrays["b"], W[0], strict=True)
    assert not arrays["b"].flags.owndata


@pytest.mark.parametrize("name", WRITTEN)
def test_quantised_numbers_are_close_to_what_was_quantised(path, name):
    kind = TYPES[name]
    arrays = jl.interop.read(write(path, {"w": (gguf.quantize(ROWS, kind), kind)}))
    assert (arrays["w"].dtype, arrays["w"].shape) == (np.float32, ROWS.shape)
    largest = np.abs(ROWS.reshape(3, 2, -1, 32)).max(-1, keepdims=True)
    error = np.abs((arrays["w"] - ROWS).reshape(3, 2, -1, 32)) / largest
    assert error.max() < WRITTEN[name]


@pytest.mark.parametrize("name", [*WRITTEN, *READ])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_blocks_of_any_bytes_are_what_the_package_reads(path, name):
    kind = TYPES[name]
    blocks = random_blocks(kind, rows=6)
    arrays = jl.interop.read(write(path, {"a": W, "w": (blocks, kind), "b": W}, alignment=64))
    want = gguf.dequantize(gguf.GGUFReader(path).tensors[1].data, kind)
    assert want.shape == arrays["w"].shape
    np.testing.assert_array_equal(arrays["w"], want, strict=True)
    np.testing.assert_array_equal(arrays["b"], W, strict=True)


def test_a_block_of_q6_k_by_hand(path):
    """Two scales, 6 bits in two places; from the layout in ggml-common.h."""
    low, high = RNG.integers(0, 256, 128, np.uint8), RNG.integers(0, 256, 64, np.uint8)
    scales = RNG.integers(-128, 128, 16).astype(np.int8)
    factor = np.float16(0.125)
    content = b"".join(part.tobytes() for part in (low, high, scales, factor))
    want = []
    for i in range(256):
        half, place = divmod(i, 128)
        quarter, k = divmod(place, 32)
        four = low[64 * half + 32 * (quarter % 2) + k] >> (4 * (quarter // 2)) & 15
        two = high[32 * half + k] >> (2 * quarter) & 3
        want.append(float(factor) * int(scales[i // 16]) * (int(four | two << 4) - 32))
    blocks = np.frombuffer(content, np.uint8)[None]
    arrays = jl.interop.read(write(path, {"w": (blocks, TYPES.Q6_K)}))
    np.testing.assert_array_equal(arrays["w"], np.float32([want]), strict=True)


def test_big_endian_files(path):
    half = W.astype(np.float16)
    write(path, {"w": W, "h": half}, order=gguf.GGUFEndian.BIG)
    arrays = jl.interop.read(path)
    np.testing.assert_array_equal(arrays["w"], W, strict=True)
    np.testing.assert_array_equal(arrays["h"], half, strict=True)


def test_all_files_of_a_split_model(tmp_path):
    tensors = {f"blk.{i}.weight": W + i for i in range(3)}
    write(tmp_path / "model.gguf", tensors, split_max_tensors=1)
    last = tmp_path / "model-00003-of-00003.gguf"
    arrays = jl.interop.read(last)
    assert list(arrays) == list(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)
    (tmp_path / "model-00002-of-00003.gguf").unlink()
    with pytest.raises(jl.InteropError) as caught:
        jl.interop.read(last)
    for part in (str(last), "is one of 3 files", "no model-00002-of-00003.gguf"):
        assert part in str(caught.value)


def text(content):
    return struct.pack("<Q", len(content)) + content


def value(key, kind, content):
    return text(key) + struct.pack("<I", kind) + content


def entry(name=b"w", shape=(4,), kind=0, offset=0):
    numbers = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return text(name) + numbers


def file(*entries, values=(), data=bytes(16), version=3, counts=None):
    counts = counts or (len(entries), len(values))
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join([*values, *entries])
    return head + bytes(-len(head) % 32) + data


ARRAY, STRING, UINT32 = 9, 8, 4
DEEP = b"".join(struct.pack("<IQ", ARRAY, 1) for _ in range(20))
WRONG = {
    "version": (file(version=1), ["the version must be of (2, 3)", "got:      1"]),
    "tensors": (file(counts=(2**60, 0)), ["tensor"]),
    "values": (file(counts=(0, 2**60)), ["of the metadata", "must be in the file"]),
    "text": (
        file(values=[value(b"a", STRING, struct.pack("<Q", 2**63))]),
        ["value 0 of the metadata, 'a', must be in the file"],
    ),
    "array": (
        file(values=[value(b"a", ARRAY, struct.pack("<IQ", UINT32, 2**62))]),
        ["value 0 of the metadata, 'a', must be in the file"],
    ),
    "array of texts": (
        file(values=[value(b"a", ARRAY, struct.pack("<IQ", STRING, 2**62))]),
        ["value 0 of the metadata, 'a', must be in the file"],
    ),
    "deep": (
        file(values=[value(b"a", ARRAY, DEEP)]),
        ["must be a value of a known type", "type 9"],
    ),
    "value": (file(values=[value(b"a", 99, b"")]), ["must be a value of a known type", "type 99"]),
    "alignment": (
        file(values=[value(b"general.alignment", UINT32, struct.pack("<I", 24))]),
        ["'general.alignment', must be a power of two", "24"],
    ),
    "name": (file(entry(b"\xff")), ["tensor 0 must be UTF-8"]),
    "twice": (file(entry(), entry()), ["tensor 'w' must have a name of its own"]),
    "axes": (file(entry(shape=(1,) * 9)), ["must have at most 8 axes", "9"]),
    "shape": (file(entry(shape=(2**50, 0))), ["must have a shape that an array can have"]),
    "size": (file(entry(shape=(2**30,))), ["tensor 'w' must be in the file"]),
    "offset": (file(entry(offset=4)), ["tensor 'w' must be in the file"]),
    "shared": (file(entry(), entry(b"v")), ["the tensors together must be in the file"]),
    "type": (file(entry(kind=99)), ["must be of a type that the package gguf knows", "type 99"]),
    "name alone": (file(entry(kind=15)), ["must be of a type that the package gguf knows"]),
    "row": (
        file(entry(kind=8, shape=(33,))),
        ["must have rows of blocks of 32 numbers", "Q8_0 of shape (33,)"],
    ),
    "scalar": (file(entry(kind=8, shape=())), ["must have rows of blocks of 32", "shape ()"]),
    "blocks": (file(entry(kind=8, shape=(32,))), ["tensor 'w' must be in the file"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_file_must_not_say(path, case):
    content, parts = WRONG[case]
    path.write_bytes(content)
    with pytest.raises(jl.InteropError) as caught:
        jl.interop.read(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


def test_quantised_big_endian_files_are_refused(path):
    blocks = gguf.quantize(ROWS, TYPES.Q8_0)
    write(path, {"w": (blocks, TYPES.Q8_0)}, order=gguf.GGUFEndian.BIG)
    with pytest.raises(jl.InteropError, match="must be little-endian where it is quantised"):
        jl.interop.read(path)


def test_quantised_tensors_need_the_package(path, monkeypatch):
    write(path, {"w": (gguf.quantize(ROWS, TYPES.Q8_0), TYPES.Q8_0)})
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(jl.InteropError) as caught:
        jl.interop.read(path)
    assert "tensor 'w' is quantised, which needs the package gguf" in str(caught.value)
    assert "hint:     pip install 'jlayers[interop]'" in str(caught.value)


def test_another_format_is_refused(path):
    path.write_bytes(bytes(40))
    with pytest.raises(jl.InteropError, match="the header must begin with b'GGUF'"):
        jl.interop.read(path, format="gguf")


def test_tensors_without_elements(path):
    path.write_bytes(file(entry(shape=(0, 3)), entry(b"q", (32, 0), 8), entry(b"s", ())))
    arrays = jl.interop.read(path)
    assert [array.shape for array in arrays.values()] == [(3, 0), (0, 32), ()]


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.soak)])
def test_mutations(path, count):
    kind = TYPES.Q4_K
    blocks = random_blocks(kind, rows=1)
    write(path, {"w": W, "q": (blocks, kind), "h": W.astype(np.float16)})
    assert mutations.check(path, count, "gguf") > count / 4
