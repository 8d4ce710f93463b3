"""Flax's msgpack against Flax."""

import ml_dtypes
import numpy as np
import pytest
from oracles import mutations

import jlayers as jl
from jlayers import interop

serialization = pytest.importorskip("flax.serialization")
msgpack = pytest.importorskip("msgpack")
DTYPES = ["?", "i1", "i4", "i8", "u1", "u4", "f2", "f4", "f8", "c8", "c16"]
DTYPES += [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4]


def tree():
    arrays = {np.dtype(d).name: np.arange(6).reshape(2, 3).astype(d) for d in DTYPES}
    turned = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    numbers = {"step": 3, "rate": 0.5, "flag": True, "z": 1 + 2j, "np": np.float32(2), "big": 2**40}
    return {
        "params": {"Dense_0": arrays, "a/b": {"turned": turned, "empty": np.zeros((0, 3), "i4")}},
        "opt_state": [{"count": np.asarray(7)}, None, ()],
        "numbers": numbers,
        "negative": [-1, -200, -70_000, -(2**40), 200, 70_000, 1 << 33],
        "note": "text",
    }


def flat(value, path=()):
    if isinstance(value, dict):
        for key, each in value.items():
            yield from flat(each, (*path, key))
    elif value is not None and not isinstance(value, str):
        yield "/".join(path), np.asarray(value)


def save(path, value):
    path.write_bytes(serialization.to_bytes(value))
    return dict(flat(serialization.to_state_dict(value)))


def assert_same(arrays, expected):
    assert list(arrays) == list(expected)
    for name, value in expected.items():
        assert arrays[name].dtype == value.dtype, name
        np.testing.assert_array_equal(arrays[name], value, err_msg=name)


@pytest.mark.parametrize("chunk", [2**30, 8])
@pytest.mark.parametrize("name", ["x.msgpack", "checkpoint_12"])
def test_trees(tmp_path, monkeypatch, chunk, name):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", chunk)
    expected = save(tmp_path / name, tree())
    assert_same(interop.read(tmp_path / name), expected)


def test_arrays_are_mapped(tmp_path):
    save(tmp_path / "x.msgpack", {"w": np.ones((3, 4))})
    array = interop.read(tmp_path / "x.msgpack")["w"]
    assert not array.flags.owndata
    assert not array.flags.writeable


def extension(shape, dtype, content, code=1):
    return msgpack.ExtType(code, msgpack.packb((shape, dtype, content)))


DAMAGED = {
    "cut": (lambda whole: whole[:-1], "entry 'w' is damaged"),
    "longer": (lambda whole: whole + b"\0", "1 bytes left over"),
    "size": (lambda whole: {"w": extension((3, 2**40), "float32", bytes(4))}, "4 bytes for shape"),
    "below 0": (lambda whole: {"w": extension((-1, -1), "float32", bytes(4))}, "shape [-1, -1]"),
    "dtype": (lambda whole: {"w": extension((1,), "O", bytes(8))}, "the dtype 'O'"),
    "records": (lambda whole: {"w": extension((1,), "i4,i4", bytes(8))}, "the dtype 'i4,i4'"),
    "parts": (lambda whole: {"w": msgpack.ExtType(1, msgpack.packb([1, 2]))}, "its three parts"),
    "code": (lambda whole: {"w": extension((1,), "float32", bytes(4), 9)}, "an extension 9"),
    "key": (lambda whole: {1.5: 2}, "a key that is a float"),
    "deep": (lambda whole: b"\x81\xa1a" * 5_000, "at most 100 deep"),
    "many": (lambda whole: b"\xdd\xff\xff\xff\xff", "4294967295 elements in 0 bytes"),
    "twice": (lambda whole: b"\x82\xa1a\1\xa1a\2", "the key 'a' twice"),
    "text": (lambda whole: b"\x81\xa1\xff\1", "a string that is not UTF-8"),
    "byte": (lambda whole: b"\x81\xa1a\xc1", "entry 'a' is damaged"),
    "pieces": (
        lambda whole: {"w": {"__msgpack_chunked_array__": True, "shape": {"0": 9}, "chunks": {}}},
        "entry 'w' is damaged",
    ),
    "empty": (lambda whole: b"", "x.msgpack is empty"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage(tmp_path, case):
    path = tmp_path / "x.msgpack"
    save(path, {"w": np.ones(3)})
    change, text = DAMAGED[case]
    content = change(path.read_bytes())
    path.write_bytes(content if isinstance(content, bytes) else msgpack.packb(content))
    with pytest.raises(jl.InteropError) as error:
        interop.read(path)
    assert text in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("chunk", [2**30, 8])
@pytest.mark.parametrize("count", [60, pytest.param(2_000, marks=pytest.mark.soak)])
def test_mutations(tmp_path, monkeypatch, count, chunk):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", chunk)
    save(tmp_path / "x.msgpack", tree())
    assert mutations.check(tmp_path / "x.msgpack", count, "flax") > count / 4
