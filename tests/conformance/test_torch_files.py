"""What PyTorch writes is what ``interop.read`` reads: all its forms, dtypes and strides."""

import argparse
import collections
import io
import pickle

import ml_dtypes
import numpy as np
import pytest
from oracles import mutations

import jlayers as jl

torch = pytest.importorskip("torch")
nn = torch.nn

# TorchScript is still what models are passed on in.
pytestmark = [
    pytest.mark.conformance,
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]
DTYPES = "bool bfloat16 float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64"
DTYPES += " complex64 complex128 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz"
DTYPES += " float8_e8m0fnu"
FORMS = {"zip": True, "legacy": False}


def numpy_of(tensor):
    if isinstance(tensor, np.ndarray):
        return tensor
    tensor = tensor.detach().resolve_conj().resolve_neg()
    name = str(tensor.dtype).removeprefix("torch.")
    if name != "bfloat16" and "float8" not in name:
        return tensor.numpy()
    raw = torch.uint16 if name == "bfloat16" else torch.uint8
    return tensor.contiguous().view(raw).numpy().view(getattr(ml_dtypes, name))


def flat(value, path=""):
    if isinstance(value, torch.Tensor | np.ndarray):
        return {path: numpy_of(value)}
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list | tuple) else items
    found = {}
    for key, below in items:
        found |= flat(below, f"{path}.{key}" if path else str(key))
    return found


def assert_reads(path, value):
    arrays, expected = jl.interop.read(path), flat(value)
    assert list(arrays) == list(expected)
    for name, want in expected.items():
        assert arrays[name].dtype == want.dtype, name
        assert arrays[name].shape == want.shape, name
        assert arrays[name].tobytes() == want.tobytes(), name
    return arrays


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4), nn.LSTM(4, 3), nn.Linear(3, 3))


def checkpoint():
    layers = model()
    w = torch.arange(24.0).reshape(4, 6)
    z = torch.tensor([1 + 2j, 3j])
    named = torch.ones(2)
    named.comment = "an attribute"
    return {
        "model": layers.state_dict(),
        "optimiser": {"state": {0: {"exp_avg": w + 1}}, "param_groups": [{"lr": 0.1, "p": [0]}]},
        "epoch": 3,
        "none": None,
        "turned": w.t(),
        "part": w[1:, ::2],
        "spread": w[0].expand(3, 6),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(w),
        "buffer": nn.Buffer(w),
        "conjugate": z.conj(),
        "negative": z.clone().conj().imag,
        "named": named,
        "list": [w, 2, {"x": w[0]}],
        "shape": w.shape,
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "args": argparse.Namespace(a=w, b=1),
        "default": collections.defaultdict(list, {"a": [w]}),
        "counts": collections.defaultdict(int, {"a": w}),
        "numpy": np.ones((2, 2)),
    }


@pytest.mark.parametrize("form", FORMS)
def test_checkpoints(tmp_path, form):
    value = checkpoint()
    path = tmp_path / "model.ckpt"
    torch.save(value, path, _use_new_zipfile_serialization=FORMS[form])
    arrays = assert_reads(path, value)
    assert np.shares_memory(arrays["turned"], arrays["parameter"])
    assert arrays["spread"].strides == (0, 4)


@pytest.mark.parametrize("form", FORMS)
def test_every_dtype(tmp_path, form):
    tensors = {n: torch.tensor([0, 1, 2, 3]).to(getattr(torch, n)) for n in DTYPES.split()}
    torch.save(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=FORMS[form])
    assert_reads(tmp_path / "a.pth", tensors)


def test_a_tensor_alone_and_from_memory(tmp_path):
    buffer = io.BytesIO()
    torch.save(torch.ones(2, 3), buffer)
    (tmp_path / "weights").write_bytes(buffer.getvalue())
    assert_reads(tmp_path / "weights", torch.ones(2, 3))


def test_plain_pickles(tmp_path):
    value = {"model": model().state_dict(), "x": torch.ones(3, dtype=torch.bfloat16)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value))
    assert_reads(tmp_path / "a.pkl", value)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(model())
        self.names = {"a": 1}
        self.sizes = [1, 2]
        self.register_buffer("table", torch.ones(2, 3).t())
        self.tied = nn.Parameter(self.layers[3].weight.detach())
        self.layers[3].weight = self.tied

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0](x) * self.sizes[0] + self.names["a"]


def test_torchscript(tmp_path):
    theirs = Nested()
    path = tmp_path / "model.pt"
    torch.jit.script(theirs).save(path)
    arrays, expected = jl.interop.read(path), flat(theirs.state_dict())
    assert set(arrays) == set(expected)
    for name, want in expected.items():
        np.testing.assert_array_equal(arrays[name], want, strict=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (lambda: model(), r"torch.save\(model.state_dict\(\), path\): this file has the model"),
        (lambda: torch.ones(2, 2).to_sparse(), r"tensor.to_dense\(\) before it is saved"),
        (lambda: torch.ones(2, device="meta"), "a model with values, not on 'meta'"),
    ],
    ids=["module", "sparse", "meta"],
)
@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_read(tmp_path, value, text, form):
    torch.save({"a": value()}, tmp_path / "a.pt", _use_new_zipfile_serialization=FORMS[form])
    with pytest.raises(jl.InteropError, match=text):
        jl.interop.read(tmp_path / "a.pt")


@pytest.mark.parametrize("form", [*FORMS, "script"])
def test_mutations(tmp_path, form):
    path = tmp_path / "a.pt"
    if form == "script":
        torch.jit.script(Nested()).save(path)
    else:
        torch.save(checkpoint(), path, _use_new_zipfile_serialization=FORMS[form])
    assert mutations.check(path, 60, "torch") > 15
