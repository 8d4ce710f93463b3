"""A PyTorch module and a layer with the same random weights: values and gradients agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl
from oracles import convert

# Its examples are looked for in an environment without PyTorch too.
torch = pytest.importorskip("torch")

F64 = {"dtype": torch.float64}


def check(module, layer, x, conversion=convert.same, around=lambda module, x: module(x)):
    """``module`` and ``layer`` agree on ``x`` (an array or a shape).

    ``around(module, x)`` is how the module is called, for channels that come first and such.
    """
    apply = jl.without_state(layer).apply
    x = convert.draw_input(x, "float64") if isinstance(x, tuple) else x
    weights = load_random(module)
    wanted = reference(module, lambda x: around(module, x), x)
    got = convert.value_and_gradients(lambda w, x: apply(conversion(w), x), weights, x)
    convert.agree(wanted, got)


def load_random(module):
    """Random parameters and statistics in the module, and the same ones as arrays by name."""
    own = {name: value for name, value in module.state_dict().items() if value.dim()}
    like = {name: np.zeros(value.shape) for name, value in own.items()}
    weights = convert.draw(like)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(torch.tensor(weights[name]))
    return weights


def reference(module, call, x):
    """What ``convert.value_and_gradients`` gives, with PyTorch's own differentiation."""
    x = torch.tensor(x, requires_grad=np.issubdtype(x.dtype, np.floating))
    y = call(x)
    (y * torch.tensor(convert.projection(y.shape, "float64"))).sum().backward()
    gradients = ({name: leaf.grad.numpy() for name, leaf in module.named_parameters()},)
    if x.requires_grad:
        gradients += (x.grad.numpy(),)
    return {"y": y.detach().numpy(), "gradient": gradients}


def channels_first(module, x):
    return module(x.movedim(-1, 1)).movedim(1, -1)


def check_loop(loop, layer, x):
    """``loop(params, x)``, written with PyTorch's operations, and ``layer`` agree on a shape ``x``.

    Also in the gradients of all parameters, which have random values.
    """
    apply = jl.without_state(layer).apply
    x = convert.draw_input(x, "float64")
    weights = convert.draw(jl.without_state(layer).init(jax.random.key(0), jnp.asarray(x)))
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in weights.items()}
    steps = torch.tensor(x, requires_grad=True)
    y = loop(tensors, steps)
    (y * torch.tensor(convert.projection(y.shape, "float64"))).sum().backward()
    gradients = {name: leaf.grad.numpy() for name, leaf in tensors.items()}
    wanted = {"y": y.detach().numpy(), "gradient": (gradients, steps.grad.numpy())}
    convert.agree(wanted, convert.value_and_gradients(apply, weights, x))
