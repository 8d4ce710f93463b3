"""Attention against PyTorch, in float64: values and gradients, the same weights."""

from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert

import jlayers as jl

torch = pytest.importorskip("torch")
nn = torch.nn
functional = nn.functional

pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]
BATCH, STEPS, KEYS, HEADS, SIZE = 3, 11, 7, 4, 6
WIDTH = HEADS * SIZE


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _drawn(*shapes):
    numbers = np.random.default_rng(0)
    return [numbers.normal(size=shape) for shape in shapes]


def _window(steps, size):
    apart = np.arange(steps)[:, None] - np.arange(steps)
    return (apart >= 0) & (apart < size)


# (our options, theirs), for as many keys as queries and two heads of keys.
PRODUCTS = {
    "all": ({}, {}),
    "scale": ({"scale": 0.7}, {"scale": 0.7}),
    "causal": ({"causal": True}, {"is_causal": True}),
    "window": ({"causal": True, "window": 4}, {"attn_mask": torch.tensor(_window(STEPS, 4))}),
    "bias": (
        {"bias": _drawn((BATCH, 1, STEPS, STEPS))[0]},
        {"attn_mask": torch.tensor(_drawn((BATCH, 1, STEPS, STEPS))[0])},
    ),
}


@pytest.mark.parametrize("method", ["direct", "blocks"])
@pytest.mark.parametrize("case", PRODUCTS)
def test_scaled_dot_product_attention(case, method):
    ours, theirs = PRODUCTS[case]
    if "bias" in ours:
        ours, method = {"bias": jnp.asarray(ours["bias"])}, "direct"
    shapes = [(BATCH, STEPS, HEADS, SIZE), *[(BATCH, STEPS, 2, SIZE)] * 2]
    arrays = _drawn(*shapes)
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    first = [t.movedim(2, 1) for t in tensors]
    y = functional.scaled_dot_product_attention(*first, **theirs, enable_gqa=True).movedim(1, 2)
    (y * torch.tensor(convert.projection(y.shape, "float64"))).sum().backward()

    def loss(*arrays):
        out = jl.core.attention(*arrays, **ours, method=method)
        return jnp.sum(out * convert.projection(out.shape, "float64")), out

    gradients, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*map(jnp.asarray, arrays))
    np.testing.assert_allclose(out, y.detach().numpy(), rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(gradients, tensors, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-10, atol=1e-12)


def _converted(weights):
    """Theirs holds queries, keys and values side by side where their sizes are one."""
    if "in_proj_weight" in weights:
        kernels = jnp.split(weights["in_proj_weight"], 3)
    else:
        kernels = [weights[f"{name}_proj_weight"] for name in "qkv"]
    names = ("query", "key", "value")
    ours = {f"{name}_kernel": kernel.T for name, kernel in zip(names, kernels, strict=True)}
    ours["out_kernel"] = weights["out_proj.weight"].T
    if "in_proj_bias" in weights:
        biases = jnp.split(weights["in_proj_bias"], 3)
        ours |= {f"{name}_bias": bias for name, bias in zip(names, biases, strict=True)}
        ours["out_bias"] = weights["out_proj.bias"]
    return ours


def _compare(module, call, layer, inputs, x_of, here, more=MappingProxyType({})):
    """``call(module, *inputs)`` and ``layer`` on ``x_of(*inputs)``, over the steps ``here``.

    ``more``: parameters that theirs has not.
    """
    like = {name: np.zeros(tuple(value.shape)) for name, value in module.state_dict().items()}
    weights = convert.draw(like)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            value.copy_(torch.tensor(weights[name]))
    tensors = [torch.tensor(a, requires_grad=True) for a in inputs]
    y = call(module, *tensors)
    weight = convert.projection(y.shape, "float64") * here[..., None]
    (y * torch.tensor(weight)).sum().backward()

    def loss(weights, *inputs):
        out, _ = layer.apply(_converted(weights) | more, {}, x_of(*inputs))
        out = out.values if isinstance(out, jl.Sequence) else out
        return jnp.sum(out * weight), out

    argnums = tuple(range(1 + len(inputs)))
    (of_weights, *of_inputs), out = jax.jit(jax.grad(loss, argnums, has_aux=True))(
        {name: jnp.asarray(value) for name, value in weights.items()}, *map(jnp.asarray, inputs)
    )
    close = {"rtol": 1e-9, "atol": 1e-11}
    np.testing.assert_allclose(out[here], y.detach().numpy()[here], **close)
    for ours, theirs in zip(of_inputs, tensors, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), **close)
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(of_weights[name], parameter.grad.numpy(), **close)


@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_with_padding(causal):
    lengths = np.array([STEPS, 4, 1])
    mask = np.arange(STEPS) < lengths[:, None]
    module = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64)
    later = torch.triu(torch.ones(STEPS, STEPS, dtype=torch.bool), 1) if causal else None

    def call(module, x):
        hidden = torch.tensor(~mask)
        return module(x, x, x, key_padding_mask=hidden, attn_mask=later, need_weights=False)[0]

    def x_of(values):
        return jl.Sequence(values, jnp.asarray(mask))

    layer = jl.SelfAttention(HEADS, causal=causal)
    _compare(module, call, layer, _drawn((BATCH, STEPS, WIDTH)), x_of, mask)


@pytest.mark.parametrize("width", [WIDTH, 5])
def test_cross_attention_with_padding(width):
    seen = np.random.default_rng(3).random((BATCH, KEYS)) < 0.5
    seen[:, 2] = True
    module = nn.MultiheadAttention(
        WIDTH, HEADS, kdim=width, vdim=width, batch_first=True, dtype=torch.float64
    )

    def call(module, x, memory):
        hidden = torch.tensor(~seen)
        return module(x, memory, memory, key_padding_mask=hidden, need_weights=False)[0]

    def x_of(values, memory):
        return values, jl.Sequence(memory, jnp.asarray(seen))

    inputs = _drawn((BATCH, STEPS, WIDTH), (BATCH, KEYS, width))
    _compare(module, call, jl.CrossAttention(HEADS), inputs, x_of, np.ones((BATCH, STEPS), bool))


# (options of theirs, the sizes of keys and values, ours)
SPLIT = {
    "one size": ({}, WIDTH, WIDTH, {}),
    "no bias": ({"bias": False}, WIDTH, WIDTH, {"bias": False}),
    "sizes of keys and values": ({}, 5, 9, {}),
    "sizes, a zero to attend to": ({"add_zero_attn": True}, 5, 9, {"sinks": True}),
}


@pytest.mark.parametrize("masked", [None, "bool", "float"])
@pytest.mark.parametrize("case", SPLIT)
def test_a_mask_of_one_s_own(case, masked):
    """Theirs is True where nothing is seen, or is added; heads lie in the batch."""
    theirs, of_keys, of_values, ours = SPLIT[case]
    module = nn.MultiheadAttention(
        WIDTH, HEADS, kdim=of_keys, vdim=of_values, batch_first=True, dtype=torch.float64, **theirs
    )
    mask = np.random.default_rng(5).random((BATCH, HEADS, STEPS, KEYS)) < 0.6
    mask[..., 1] = True
    bias = np.random.default_rng(6).normal(size=mask.shape)
    flat = (BATCH * HEADS, STEPS, KEYS)
    given, of_torch = {
        None: ({}, None),
        "bool": ({"mask": jnp.asarray(mask)}, torch.tensor(~mask.reshape(flat))),
        "float": ({"bias": jnp.asarray(bias)}, torch.tensor(bias.reshape(flat))),
    }[masked]

    def call(module, x, keys, values):
        return module(x, keys, values, attn_mask=of_torch, need_weights=False)[0]

    def x_of(x, keys, values):
        return {"x": x, "keys": keys, "values": values, **given}

    _compare(
        module,
        call,
        jl.CrossAttention(HEADS, **ours),
        _drawn((BATCH, STEPS, WIDTH), (BATCH, KEYS, of_keys), (BATCH, KEYS, of_values)),
        x_of,
        np.ones((BATCH, STEPS), bool),
        {"sinks": jnp.zeros(HEADS)} if "sinks" in ours else {},
    )


def test_the_weights_of_attention():
    module = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64)
    (x,) = _drawn((BATCH, STEPS, WIDTH))
    later = torch.triu(torch.ones(STEPS, STEPS, dtype=torch.bool), 1)
    theirs = torch.tensor(x)
    _, wanted = module(theirs, theirs, theirs, attn_mask=later, average_attn_weights=False)
    params = _converted({name: jnp.asarray(v.numpy()) for name, v in module.state_dict().items()})
    (_, weights), _ = jl.SelfAttention(HEADS, causal=True, weights=True).apply(params, {}, x)
    np.testing.assert_allclose(weights, wanted.detach().numpy(), rtol=1e-10, atol=1e-13)


def test_values_of_another_size():
    shapes = [(BATCH, STEPS, HEADS, SIZE), (BATCH, STEPS, 2, SIZE), (BATCH, STEPS, 2, 3)]
    arrays = _drawn(*shapes)
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    first = [t.movedim(2, 1) for t in tensors]
    y = functional.scaled_dot_product_attention(*first, is_causal=True, enable_gqa=True)
    weight = convert.projection((BATCH, STEPS, HEADS, 3), "float64")
    (y.movedim(1, 2) * torch.tensor(weight)).sum().backward()
    for method in ("direct", "blocks"):

        def loss(*arrays, method=method):
            return jnp.sum(jl.core.attention(*arrays, causal=True, method=method) * weight)

        gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(*map(jnp.asarray, arrays))
        for ours, theirs in zip(gradients, tensors, strict=True):
            np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_a_learned_key():
    """Theirs is joined after the maps of keys and values, ours before them."""
    module = nn.MultiheadAttention(
        WIDTH, HEADS, batch_first=True, add_bias_kv=True, dtype=torch.float64
    )
    x, extra_key, extra_value = _drawn((BATCH, STEPS, WIDTH), (1, WIDTH), (1, WIDTH))

    def body(f, parts):
        x, key, value = parts
        keys, values = (jl.Sequence.prepend(x, step) for step in (key, value))
        return f.attend((x, keys, values))

    layer = jl.compose(body, attend=jl.CrossAttention(HEADS))
    weights = {
        name: jnp.asarray(value.detach().numpy())
        for name, value in module.named_parameters()
        if not name.startswith("bias_")
    }
    params = {"attend": _converted(weights)}
    for name, theirs, step in (
        ("key", module.bias_k, extra_key),
        ("value", module.bias_v, extra_value),
    ):
        mapped = step @ params["attend"][f"{name}_kernel"] + params["attend"][f"{name}_bias"][None]
        theirs.data = torch.tensor(np.asarray(mapped))[None]
    given = torch.tensor(x, requires_grad=True)
    y = module(given, given, given, need_weights=False)[0]
    (y * torch.tensor(convert.projection(y.shape, "float64"))).sum().backward()

    def loss(x):
        out, _ = layer.apply(params, {}, (x, jnp.asarray(extra_key), jnp.asarray(extra_value)))
        return jnp.sum(out * convert.projection(out.shape, "float64")), out

    gradient, out = jax.jit(jax.grad(loss, has_aux=True))(jnp.asarray(x))
    np.testing.assert_allclose(out, y.detach().numpy(), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(gradient, given.grad.numpy(), rtol=1e-9, atol=1e-11)
