"""Norms and regularisation against PyTorch's modules, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert

import jlayers as jl

torch = pytest.importorskip("torch")
nn = torch.nn

from oracles.against_torch import F64, channels_first, check, load_random, reference  # noqa: E402

pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]


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


@pytest.mark.parametrize("momentum", [0.2, None])
def test_batch_norm_with_the_statistics_of_pytorch(momentum):
    """Training agrees: outputs, and the running statistics after three batches."""
    module = nn.BatchNorm2d(3, eps=1e-2, momentum=momentum, **F64).train()
    layer = jl.BatchNorm(
        epsilon=1e-2, momentum=None if momentum is None else 1 - momentum, unbiased=True
    )
    weights = load_random(module)
    params, state = convert.torch_norm(weights), convert.torch_running(weights)
    if momentum is None:
        state["count"] = jnp.zeros((), jnp.int32)
    for i in range(3):
        x = convert.draw_input((4, 5, 2, 3), "float64") * (i + 1) + i
        wanted = reference(module, lambda x: channels_first(module, x), x)["y"]
        y, state = layer.apply(params, state, jnp.asarray(x), train=True)
        np.testing.assert_allclose(y, wanted, rtol=1e-10)
        running = {k: v.numpy() for k, v in module.state_dict().items() if v.dim()}
        got = {name: state[name] for name in ("mean", "var")}
        convert.agree(convert.torch_running(running), got)
    module.eval()
    wanted = reference(module, lambda x: channels_first(module, x), x)["y"]
    np.testing.assert_allclose(layer.apply(params, state, jnp.asarray(x))[0], wanted, rtol=1e-10)


def test_instance_norm_with_running_statistics():
    """Training and evaluation agree, and the running statistics after three batches."""
    module = nn.InstanceNorm2d(
        3, eps=1e-2, momentum=0.2, affine=True, track_running_stats=True, **F64
    ).train()
    layer = jl.InstanceNorm(running_statistics=True, momentum=0.8, unbiased=True, epsilon=1e-2)
    weights = load_random(module)
    params, state = convert.torch_norm(weights), convert.torch_running(weights)
    for i in range(3):
        x = convert.draw_input((4, 5, 2, 3), "float64") * (i + 1) + i
        wanted = reference(module, lambda x: channels_first(module, x), x)["y"]
        y, state = layer.apply(params, state, jnp.asarray(x), train=True)
        np.testing.assert_allclose(y, wanted, rtol=1e-9, atol=1e-12)
        running = {k: v.numpy() for k, v in module.state_dict().items() if v.dim()}
        convert.agree(
            convert.torch_running(running), {name: state[name] for name in ("mean", "var")}
        )
    module.eval()
    wanted = reference(module, lambda x: channels_first(module, x), x)["y"]
    np.testing.assert_allclose(layer.apply(params, state, jnp.asarray(x))[0], wanted, rtol=1e-9)
