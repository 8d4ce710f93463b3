"""Plain pickles of arrays, of all protocols, as NumPy, JAX, Haiku and Flax write them."""

import argparse
import collections
import fractions
import pathlib
import pickle
import struct
import sys
import types
import typing

import flax
import haiku
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from oracles import mutations
from oracles.torch_files import Call, Name, legacy, pickled, tensor

import jlayers as jl

W = np.arange(24, dtype=np.float32).reshape(4, 6)
ARRAYS = {
    "mlp/~/linear_0": {"w": W, "b": np.arange(6).astype(ml_dtypes.bfloat16)},
    "turned": W.T,
    "part": W[1:, ::2],
    "big": W.astype(">f4"),
    "fortran": np.asfortranarray(W),
    "scalar": np.array(3.0),
    "empty": np.zeros((0, 3)),
    "bool": np.array([True, False]),
    "complex": np.array([1j], np.complex64),
    "small": np.arange(3).astype(ml_dtypes.float8_e4m3fn),
} | {f"int{bits}": np.arange(-2, 2, dtype=f"int{bits}") for bits in (8, 16, 32, 64)}
OTHERS = {"step": 3, "name": "x", "rate": np.float32(0.1), "none": None, "words": np.array(["a"])}
OTHERS |= {"path": pathlib.PurePosixPath("a"), "many": {1, 2}, "z": 1j, "text": b"y" * 100}


def save(tmp_path, value, protocol=4):
    path = tmp_path / "params.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_numpy(tmp_path, protocol):
    path = save(tmp_path, ARRAYS | OTHERS, protocol)
    arrays = jl.interop.read(path)
    flat = {"mlp/~/linear_0/w": W, "mlp/~/linear_0/b": ARRAYS["mlp/~/linear_0"]["b"]}
    flat |= {name: array for name, array in ARRAYS.items() if name != "mlp/~/linear_0"}
    assert list(arrays) == list(flat)
    for name, want in flat.items():
        native = want.astype(want.dtype.newbyteorder("="))
        np.testing.assert_array_equal(arrays[name], native, strict=True)


def test_arrays_of_python_2(tmp_path):
    """Bytes were strings, and names too."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\1btR"
    dtype = b"cnumpy\ndtype\n(U\2f4K\0K\1tR(K\3U\1<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    raw = np.array([-1.5, 2], np.float32).tobytes()
    path = tmp_path / "params.pkl"
    path.write_bytes(b"\x80\2}U\1w" + array + b"(K\1(K\2t" + dtype + b"\x89U\x08" + raw + b"tbs.")
    np.testing.assert_array_equal(jl.interop.read(path)["w"], np.array([-1.5, 2], np.float32))


def test_large_arrays_are_mapped(tmp_path):
    path = save(tmp_path, {"w": np.zeros((100, 100))}, 5)
    array = jl.interop.read(path)["w"]
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_containers(tmp_path):
    state = optax.ScaleByAdamState(count=jnp.zeros((), "int32"), mu={"w": jnp.ones(2)}, nu={})
    value = {
        "jax": jnp.ones((2, 3)),
        "flax": flax.core.freeze({"dense": {"kernel": W}}),
        "haiku": haiku.data_structures.to_haiku_dict({"linear": {"w": W}}),
        "ordered": collections.OrderedDict(a=W),
        "default": collections.defaultdict(list, {"a": [W]}),
        "counter": collections.defaultdict(int, {"a": W}),
        "texts": collections.defaultdict(str, {"a": W}),
        "names": argparse.Namespace(a=W),
        "adam": state,
        "same": (W, W),
    }
    names = [
        *("jax", "flax/dense/kernel", "haiku/linear/w", "ordered/a", "default/a/0", "counter/a"),
        *("texts/a", "names/a", "adam/0", "adam/1/w", "same/0", "same/1"),
    ]
    # Protocol 2, which torch has, calls int and str as Python 2 did.
    assert list(jl.interop.read(save(tmp_path, value, 2))) == names
    arrays = jl.interop.read(save(tmp_path, value))
    assert list(arrays) == names
    np.testing.assert_array_equal(arrays["jax"], np.ones((2, 3), np.float32), strict=True)
    assert arrays["same/0"] is arrays["same/1"]
    np.testing.assert_array_equal(jl.interop.read(save(tmp_path, W))[""], W)


class Node:
    """As a configuration of OmegaConf: it knows what it is in."""

    def __init__(self, content, parent=None):
        self._metadata, self._parent, self._content = typing.Any, parent, content


def test_configurations_beside_the_arrays(tmp_path, monkeypatch):
    module = types.ModuleType("omegaconf.dictconfig")
    module.Node = Node
    monkeypatch.setattr(Node, "__module__", module.__name__)
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    root = Node({})
    root._content |= {"sizes": Node([1, 2], root), "weights": Node(W, root)}
    for value, names in (
        ({"w": W, "config": root}, ["w", "config._content.weights._content"]),
        ({"w": W, "sizes": root._content["sizes"]}, ["w", "sizes._parent._content.weights"]),
    ):
        for protocol in (2, 4):
            arrays = jl.interop.read(save(tmp_path, value, protocol))
            one, two = (name.replace("/", ".") for name in arrays)
            assert one == names[0]
            assert two.startswith(names[1])


def test_tensors_of_torch_with_dots(tmp_path):
    """A storage in a plain pickle is a file of the old form, as a byte string."""
    x = np.arange(3, dtype=np.float32)
    stored = tensor(x, "1").args[0]
    raw = legacy(stored, {"1": x})
    load = Call(Name("torch.storage", "_load_from_bytes"), (b"",))
    value = {"model": {"w": tensor(x, "1")._replace(args=(load, 0, (3,), (1,), False, None))}}
    whole = b"B" + struct.pack("<I", len(raw)) + raw
    path = tmp_path / "model.pkl"
    path.write_bytes(pickled(value).replace(b"C\0", whole))
    arrays = jl.interop.read(path)
    assert list(arrays) == ["model.w"]
    np.testing.assert_array_equal(arrays["model.w"], x)
    path.write_bytes(pickled(value))
    with pytest.raises(jl.InteropError, match="a storage is damaged"):
        jl.interop.read(path)
    with pytest.raises(jl.InteropError, match=f"{tmp_path} is a folder"):
        jl.interop.read(tmp_path, format="torch")


def circle():
    value = {"w": W}
    value["again"] = value
    return value


def deep(depth):
    value = W
    for _ in range(depth):
        value = {"a": value}
    return value


def many():
    value = [W]
    for _ in range(60):
        value = [value, value]
    return value


class Mine:
    pass


WRONG = {
    "fraction": (fractions.Fraction(1, 2), "asks for an object that is not an array"),
    "mine": ({"a": Mine()}, r"got:      test_read_pickle.Mine"),
    "objects": (np.array([{}, None]), "an array is not of numbers"),
    "records": (np.zeros(2, [("a", "f4")]), "an array is not of numbers"),
    "dates": (np.zeros(2, "M8[s]"), "an array is not of numbers"),
    "circle": (circle(), "nested deeper than 100 dicts or lists"),
    "deep": (deep(101), "nested deeper than 100 dicts or lists"),
    "many": (many(), "has more entries, by references, than its size explains"),
    "keys": ({(1, (2, 3)): W}, "a dict has keys that are not names"),
    "twice": ({1: W, "1": W}, "two arrays with the name '1'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_arrays(tmp_path, case):
    value, text = WRONG[case]
    path = save(tmp_path, value)
    with pytest.raises(jl.InteropError, match=text) as caught:
        jl.interop.read(path)
    assert str(path) in str(caught.value)


def test_a_hundred_levels_are_read(tmp_path):
    (name,) = jl.interop.read(save(tmp_path, deep(100)))
    assert name == "/".join("a" * 100)


ENCODED = pickle.dumps({"w": np.arange(9.0)}, 4)
DAMAGED = {
    "empty": (b"", "is empty"),
    "nothing": (b"\x80\4", "expected: 1 more bytes"),
    "no end": (ENCODED[:-1], "byte .* of the pickle: the pickle is truncated or damaged"),
    "short": (ENCODED.replace(b"CH", b"CG"), "byte .* of the pickle"),
    "shape": (ENCODED.replace(b"K\t", b"K\n"), r"expected: 80 bytes for float64\[10\]"),
    "joblib": (
        b"\x80\4cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81.",
        "hint: +numpy.savez of what joblib.load gives, where the file is trusted",
    ),
    "memo": (b"\x80\4h\7.", "it is damaged\n.*KeyError: 7"),
    "mark": (b"\x80\4(.", "a mark instead of an object"),
    "no mark": (b"\x80\4t.", "a mark on its stack"),
    "list": (b"\x80\4)(K\1e.", "expected: a list\n.*tuple"),
    "dict": (b"\x80\4](K\1K\1u.", "expected: a dict\n.*list"),
    "odd": (b"\x80\4}(K\1u.", "a key without a value"),
    "key": (b"\x80\4}]K\1s.", "keys that are not names"),
    "state": (b"\x80\4]}b.", "a state for list"),
    "call": (b"\x80\4K\1)R.", "this cannot be called\n.*int"),
    "arguments": (b"\x80\4cnumpy\ndtype\n]R.", "a tuple of arguments"),
    "words": (b"\x80\4cnumpy\ndtype\n)}K\1K\1s\x92.", "this cannot be made"),
    "dtype": (b"\x80\4cnumpy\ndtype\nX\2\0\0\0O8\x89\x88\x87R.", "dtype 'O8'"),
    "opcode": (b"\x80\4\x82\1.", "this opcode has no place in a file of arrays"),
    "outside": (b"\x80\4K\1Q.", "refers to an object outside of the file"),
    "memory": (b"\x80\4B\xff\xff\xff\xff.", "expected: 4,294,967,295 more bytes"),
    "length": (b"\x80\4T\xff\xff\xff\xff.", "expected: a length\n.*-1"),
    "line": (b"\x80\4I1", "a line of at most 4,096 bytes"),
    "quotes": (b"\x80\4S'a\n.", "a string in quotes"),
    "number": (b"\x80\4\x8b\1\1\1\0.", "expected: a number"),
    "unicode": (b"\x80\4X\1\0\0\0\xff.", "UnicodeDecodeError"),
    "names": (b"\x80\4K\1K\1\x93.", "the names of a global"),
    "pairs": (b"\x80\4ccollections\nOrderedDict\nK\1\x85R.", "the entries of a dict"),
    # Python's own hash and repr of these would run out of stack.
    "deep key": (b"\x80\4})" + b"\x85" * 100_000 + b"K\1s.", "keys that are not names"),
    "deep pair": (
        b"\x80\4ccollections\nOrderedDict\n](()" + b"\x85" * 100_000 + b"K\1te\x85R.",
        "keys that are not names",
    ),
    "deep dtype": (b"\x80\4cnumpy\ndtype\n)" + b"\x85" * 100_000 + b"\x85R.", "not of numbers"),
    "no values": (b"\x80\4cnumpy._core.multiarray\n_reconstruct\n)R.", "'' has no values"),
    "nested": (
        b"\x80\4ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._tensor\n_rebuild_from_type_v2\nNNNtR.",
        "inside of itself|a function of arrays",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_pickles(tmp_path, case):
    content, text = DAMAGED[case]
    path = tmp_path / "params.pkl"
    path.write_bytes(content)
    with pytest.raises(jl.InteropError, match=f"(?s){text}") as caught:
        jl.interop.read(path, format="pickle")
    assert str(path) in str(caught.value)


def test_a_pickle_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("jlayers.interop.pickles.interpreter._MOST_OPCODES", 100)
    path = tmp_path / "params.pkl"
    path.write_bytes(b"\x80\2" + b"N0" * 100 + b"N.")
    with pytest.raises(jl.InteropError, match="the pickle has no end"):
        jl.interop.read(path)


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("protocol", [2, 5])
def test_mutations(tmp_path, protocol, count):
    refused = mutations.check(save(tmp_path, ARRAYS | OTHERS, protocol), count, "pickle")
    assert refused > count / 4
