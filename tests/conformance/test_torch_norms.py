"""Norms and regularisation against PyTorch's modules, in float64."""

import jax
import pytest
from oracles import convert

import jlayers as jl

torch = pytest.importorskip("torch")
nn = torch.nn

from oracles.against_torch import F64, check  # noqa: E402

pytestmark = pytest.mark.conformance


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("kind", ["layer", "layer, no bias", "rms"])
def test_norm_over_several_axes(kind, axes):
    shape = (2, 3, 4, 5)
    sizes, axis = shape[-axes:], tuple(range(-axes, 0))
    if kind == "rms":
        module = nn.RMSNorm(sizes, eps=1e-2, **F64)
        layer = jl.RMSNorm(axis=axis, epsilon=1e-2)
    else:
        bias = kind == "layer"
        module = nn.LayerNorm(sizes, eps=1e-2, bias=bias, **F64)
        layer = jl.LayerNorm(axis=axis, epsilon=1e-2, bias=bias)
    check(module, layer, shape, convert.torch_norm)
