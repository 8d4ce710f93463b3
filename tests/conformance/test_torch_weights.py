"""weight_norm and spectral_norm beside PyTorch: values, gradients, vectors after some steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert

import jlayers as jl

torch = pytest.importorskip("torch")
from oracles.against_torch import F64, check, reference  # noqa: E402

parametrizations = torch.nn.utils.parametrizations

pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


ORIGINAL = "parametrizations.weight.original"


def moved(weight):
    """(out, in, *size) to (*size, in, out)."""
    return jnp.moveaxis(jnp.asarray(weight), (0, 1), (-1, -2))


def image_first(module, x):
    return module(x.movedim(-1, 1)).movedim(1, -1)


CASES = {
    "linear": (lambda: torch.nn.Linear(4, 3, **F64), jl.Dense(3), (5, 4)),
    "conv": (lambda: torch.nn.Conv2d(4, 6, (3, 2), **F64), jl.Conv(6, (3, 2)), (2, 5, 4, 4)),
    "groups": (
        lambda: torch.nn.Conv2d(4, 6, 3, groups=2, **F64),
        jl.Conv(6, 3, groups=2),
        (2, 5, 4, 4),
    ),
}


@pytest.mark.parametrize("dim", [0, 1], ids=["outputs", "inputs"])
@pytest.mark.parametrize("name", CASES)
def test_weight_norm(name, dim):
    make, layer, x = CASES[name]

    def conversion(weights):
        norm = weights[ORIGINAL + "0"].reshape(-1)
        kernel = moved(weights[ORIGINAL + "1"])
        return {"kernel": kernel, "kernel_norm": norm, "bias": weights["bias"]}

    module = parametrizations.weight_norm(make(), dim=dim)
    layer = jl.weight_norm(layer, feature_axes=-1 - dim)
    around = image_first if name != "linear" else lambda module, x: module(x)
    check(module, layer, x, conversion, around)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_spectral_norm(name, steps):
    make, layer, size = CASES[name]
    torch.manual_seed(0)
    module = parametrizations.spectral_norm(make(), n_power_iterations=steps)
    layer = jl.spectral_norm(layer, steps=steps)
    around = image_first if name != "linear" else lambda module, x: module(x)
    vectors = module.parametrizations.weight[0]

    def state():
        u, v = vectors._u.numpy(), vectors._v.numpy()
        # PyTorch's rows have the input's channel before the places of the kernel.
        shape = module.parametrizations.weight.original.shape[1:]
        v = np.moveaxis(v.reshape(shape), 0, -1).ravel()
        return {"kernel_u": jnp.asarray(u.copy()), "kernel_v": jnp.asarray(v)}

    weights = {path: leaf.detach().numpy().copy() for path, leaf in module.named_parameters()}
    x = convert.draw_input(size, "float64")
    for train in (True, True, False):
        module.train(train)
        before = state()
        wanted = reference(module, lambda x: around(module, x), x)
        module.zero_grad()

        def apply(weights, x, before=before, train=train):
            params = {"kernel": moved(weights[ORIGINAL]), "bias": weights["bias"]}
            return layer.apply(params, before, x, train=train)[0]

        convert.agree(wanted, convert.value_and_gradients(apply, weights, x))
        params = {"kernel": moved(weights[ORIGINAL]), "bias": jnp.asarray(weights["bias"])}
        _, after = layer.apply(params, before, x, train=train)
        for path, leaf in state().items():
            np.testing.assert_allclose(after[path], leaf, rtol=1e-9, atol=1e-12)


def test_the_first_vectors_are_good():
    layer = jl.spectral_norm(jl.Dense(6))
    params, state = layer.init(jax.random.key(0), jl.spec((1, 9)))
    largest = np.linalg.svd(np.asarray(params["kernel"]), compute_uv=False)[0]
    estimate = state["kernel_v"] @ params["kernel"] @ state["kernel_u"]
    np.testing.assert_allclose(estimate, largest, rtol=1e-2)


@pytest.mark.parametrize("size", [(6, 4), (4, 6), (5, 5)], ids=str)
@pytest.mark.parametrize("method", ["householder", "matrix_exp", "cayley"])
def test_orthogonal(method, size):
    inputs, outputs = size
    torch.manual_seed(0)
    module = parametrizations.orthogonal(
        torch.nn.Linear(inputs, outputs, **F64), orthogonal_map=method, use_trivialization=False
    )
    layer = jl.orthogonalize_weights(jl.Dense(outputs), method=method)
    weights = {path: leaf.detach().numpy().copy() for path, leaf in module.named_parameters()}
    x = convert.draw_input((7, inputs), "float64")

    def apply(weights, x):
        params = {"kernel": jnp.asarray(weights[ORIGINAL]).T, "bias": weights["bias"]}
        return layer.apply(params, {}, x)[0]

    convert.agree(
        reference(module, lambda x: module(x), x), convert.value_and_gradients(apply, weights, x)
    )
