"""PyTorch's files without PyTorch; tests/conformance has those that PyTorch itself writes."""

import zipfile

import ml_dtypes
import numpy as np
import pytest
from oracles import mutations
from oracles.torch_files import Call, Made, Name, Stored, legacy, pickled, tensor, write_zip

import jlayers as jl

W = np.arange(24, dtype=np.float32)
B = np.arange(5).astype(ml_dtypes.bfloat16)
FLAGS = np.array([True, False])
Z = np.array([1 + 2j, 3j], np.complex64)
STORAGES = {"0": W, "1": B, "2": FLAGS, "3": Z}
LINEAR = Name("__torch__.torch.nn.modules.linear", "Linear")


def checkpoint():
    weight = tensor(W, "0", (4, 6))
    parameter = Call(Name("torch._utils", "_rebuild_parameter"), (weight, True, None))
    return {
        "model": {"weight": weight, "tied": parameter, "flags": tensor(FLAGS, "2")},
        "epoch": 3,
        "name": "net",
        "nothing": None,
        "losses": [0.5, 0.25, {"last": tensor(B, "1")}],
        "turned": tensor(W, "0", (6, 4), (1, 6)),
        "part": tensor(W, "0", (2, 3), (12, 2), 7),
        "spread": tensor(W, "0", (3, 6), (0, 1)),
        "scalar": tensor(W, "0", (), (), 23),
        "empty": tensor(W, "0", (0, 3), (3, 1)),
        "conjugate": tensor(Z, "3", metadata=({"conj": True},)),
        "optimiser": {"state": {0: {"step": tensor(W, "0", (), (), 2)}}, "lr": 0.1},
    }


EXPECTED = {
    "model.weight": W.reshape(4, 6),
    "model.tied": W.reshape(4, 6),
    "model.flags": FLAGS,
    "losses.2.last": B,
    "turned": W.reshape(4, 6).T,
    "part": W.reshape(4, 6)[1:, 1::2].reshape(-1)[[0, 1, 2, 6, 7, 8]].reshape(2, 3),
    "spread": np.broadcast_to(W[:6], (3, 6)),
    "scalar": W[23],
    "empty": np.zeros((0, 3), np.float32),
    "conjugate": Z.conj(),
    "optimiser.state.0.step": W[2],
}


@pytest.fixture(params=["zip", "deflated", "legacy"])
def write(request, tmp_path):
    def write(value, storages=STORAGES):
        path = tmp_path / "model.pt"
        if request.param == "legacy":
            path.write_bytes(legacy(value, storages))
            return path
        method = zipfile.ZIP_DEFLATED if request.param == "deflated" else zipfile.ZIP_STORED
        return write_zip(path, value, storages, compression=method)

    return write


def test_nested_tied_and_strided_tensors_and_nothing_else(write):
    """Numbers, text and None beside tensors are left out."""
    arrays = jl.interop.read(write(checkpoint()))
    assert list(arrays) == list(EXPECTED)
    for name, want in EXPECTED.items():
        np.testing.assert_array_equal(arrays[name], want, strict=True)
    assert np.shares_memory(arrays["model.weight"], arrays["model.tied"])
    assert arrays["turned"].strides == (4, 24)
    assert not arrays["model.weight"].flags.writeable


def test_a_view_of_a_storage_before_torch_0_4(tmp_path):
    path = tmp_path / "model.pt"
    view = ("root", 6, 12)
    value = [tensor(W, "root", (3, 4), view=(view,)), tensor(W, "root", view=(None,))]
    path.write_bytes(legacy(value, {"root": W}))
    arrays = jl.interop.read(path)
    np.testing.assert_array_equal(arrays["0"], W[6:18].reshape(3, 4))
    np.testing.assert_array_equal(arrays["1"], W)


def test_torchscript_is_a_tree_of_attributes(tmp_path):
    weight, bias = tensor(W, "0", (4, 6)), tensor(B, "1")
    linear = Made(LINEAR, {"weight": weight, "bias": bias, "training": True, "flat": [weight]})
    net = Made(Name("__torch__", "Net"), {"training": False, "0": linear, "others": [bias]})
    extra = {"constants.pkl": b"\x80\2).", "code/__torch__.py": "class Net(Module): ..."}
    path = write_zip(tmp_path / "net.ts", net, STORAGES, extra=extra)
    arrays = jl.interop.read(path)
    # A list of a module's own parameters is an LSTM's second view of them.
    assert list(arrays) == ["0.weight", "0.bias", "others.0"]


@pytest.mark.parametrize("memory", [W, B, Z], ids=["float32", "bfloat16", "complex64"])
def test_big_endian_archives(tmp_path, memory):
    kind = np.dtype(np.uint16) if memory is B else memory.dtype
    turned = memory.view(kind).astype(kind.newbyteorder(">"))
    path = tmp_path / "model.pt"
    write_zip(path, {"a": tensor(memory, "0")}, {"0": turned}, extra={"byteorder": "big"})
    np.testing.assert_array_equal(jl.interop.read(path)["a"], memory, strict=True)


REBUILT = Name("torch._utils", "_rebuild_tensor_v2")
UNTYPED = Stored(("storage", Name("torch.storage", "UntypedStorage"), "0", "cpu", 4))
# What the pickle holds, and parts of the error.
WRONG = {
    "fraction": (
        {"a": Call(Name("fractions", "Fraction"), (1, 2))},
        [
            "data.pkl', byte 10 of the pickle",
            "asks for an object that is not an array",
            "fractions.Fraction",
        ],
    ),
    "quantised": (
        [Call(Name("torch._utils", "_rebuild_qtensor"), ())],
        ["_rebuild_qtensor", "hint:     tensor.dequantize() before it is saved"],
    ),
    "module": (
        Made(Name("torch.nn.modules.linear", "Linear"), {}),
        ["modules.linear.Linear", "hint:     torch.save(model.state_dict(), path): this file has"],
    ),
    "missing": (
        {"a": tensor(W, "9")},
        ["has no entry 'archive/data/9'"],
    ),
    "short": (
        {"a": tensor(W, "0", count=25)},
        ["storage 'archive/data/0' is damaged", "100 bytes", "96"],
    ),
    "beyond": (
        {"a": {"b": tensor(W, "0", (4, 7), (7, 1))}},
        ["model.pt: 'a.b' reaches out of its storage", "112 bytes", "96"],
    ),
    "negative": ({"a": tensor(W, "0", (-1,), (1,))}, ["a shape is damaged", "(-1,)"]),
    "uneven": ({"a": tensor(W, "0", (4, 6), (1,))}, ["a stride for each of its axes"]),
    "large": ({"a": tensor(W, "0", (0, 2**59, 2**59), (1, 1, 1))}, ["'a' has a shape beyond"]),
    "storage": ({"a": Call(REBUILT, ("x", 0, (), ()))}, ["a tensor has no storage", "str"]),
    "dtype": (
        Call(Name("torch._utils", "_rebuild_tensor_v3"), (UNTYPED, 0, (1,), (1,), False, None, 5)),
        ["a tensor has no dtype", "5"],
    ),
    "id": ({"a": Stored(("module", 1, 2))}, ["something that is not a storage"]),
    "kind": ({"a": Stored(("storage", 1, "0", "cpu", 1))}, ["a storage is damaged", "'0'"]),
    "arguments": ({"a": Call(REBUILT, ())}, ["of the pickle: it is damaged", "missing"]),
    "called": ({"a": Call(Name("torch", "FloatStorage"), ())}, ["cannot be called"]),
    "booleans": (
        {"a": tensor(FLAGS, "0", (2,), (1,), 2, count=4)},
        ["'a' has booleans other than 0 and 1"],
    ),
    "twice": ({"a.b": tensor(W, "0"), "a": {"b": tensor(W, "0")}}, ["two arrays", "'a.b'"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_file_must_not_say(tmp_path, case):
    value, parts = WRONG[case]
    storages = {"0": np.arange(1, 25, dtype=np.float32)}
    path = write_zip(tmp_path / "model.pt", value, storages)
    with pytest.raises(jl.InteropError) as caught:
        jl.interop.read(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


def damaged_zip(path, change):
    write_zip(path, {"a": tensor(W, "0")}, {"0": W}, extra={"byteorder": "little"})
    path.write_bytes(change(path.read_bytes()))


DAMAGED = {
    "directory": (lambda c: c.replace(b"PK\1\2", b"PK\1\3"), "is a damaged zip archive"),
    "order": (lambda c: c.replace(b"little", b"middle"), "'byteorder' is damaged"),
    "pickle": (lambda c: c.replace(b"data.pkl", b"data.pkk"), "an entry 'archive/data.pkl'"),
    "header": (
        lambda c: c.replace(b"PK\3\4", b"PK\3\5").replace(b"PK\3\5", b"PK\3\4", 1),
        "a header before the entry",
    ),
}


@pytest.mark.parametrize("case", ["directory", "order", "pickle", "header"])
def test_damaged_archives(tmp_path, case):
    change, text = DAMAGED[case]
    damaged_zip(tmp_path / "model.pt", change)
    with pytest.raises(jl.InteropError, match=text):
        jl.interop.read(tmp_path / "model.pt")


def test_an_archive_must_not_grow(tmp_path):
    zeros = np.zeros(1 << 20, np.float32)
    path = tmp_path / "model.pt"
    write_zip(path, {"a": tensor(zeros, "0")}, {"0": zeros}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(jl.InteropError, match="claims to hold more than 100 times its size"):
        jl.interop.read(path)


LEGACY = {
    "protocol": (lambda c: c.replace(b"\xe9\3", b"\xe9\4"), "unknown protocol"),
    "truncated": (lambda c: c[:-1], "storage 1 is truncated or damaged"),
    "no storage": (lambda c: c[: -len(B.tobytes()) - 8], "storage 1 is missing"),
    "count": (
        lambda c: c.replace(b"\x18" + b"\0" * 7 + W.tobytes()[:8], b"\x17" + b"\0" * 15),
        "23",
    ),
    "pickle": (lambda c: c[:200], "byte 135 of the pickle: the pickle is damaged"),
    "magic": (lambda c: b"\x80\2K\1.", "not a file of PyTorch"),
    "empty": (lambda c: b"", "is empty"),
}


@pytest.mark.parametrize("case", LEGACY)
def test_damaged_legacy_files(tmp_path, case):
    change, text = LEGACY[case]
    path = tmp_path / "model.bin"
    path.write_bytes(change(legacy([tensor(W, "a"), tensor(B, "b")], {"a": W, "b": B})))
    with pytest.raises(jl.InteropError, match=text) as caught:
        jl.interop.read(path, format="torch")
    assert str(path) in str(caught.value)


def test_storages_of_a_legacy_file_belong_to_tensors(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(legacy([tensor(W, "a")], {"a": W, "c": W}))
    with pytest.raises(jl.InteropError, match="storage 1 belongs to no tensor"):
        jl.interop.read(path)
    path.write_bytes(legacy([tensor(W, "a")], {}))
    with pytest.raises(jl.InteropError, match="in a storage that the file does not have"):
        jl.interop.read(path)


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.soak)])
def test_mutations(write, count):
    refused = mutations.check(write(checkpoint()), count, "torch")
    assert refused > count / 4


def test_pickled_is_what_pickle_reads():
    import pickle

    value = {"a": [1, 2.5, None, True, ("x", b"y")]}
    assert pickle.loads(pickled(value)) == value
