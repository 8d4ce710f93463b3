"""Blocks of a transformer against PyTorch's layers, in float64: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl

torch = pytest.importorskip("torch")
from oracles.against_torch import F64, check  # noqa: E402

nn = torch.nn
pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]
BATCH, STEPS, KEYS, HEADS, WIDTH, HIDDEN = 2, 5, 4, 2, 6, 7
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _attention(weights, name):
    """Theirs holds queries, keys and values side by side."""
    parts = ("query", "key", "value")
    kernels = jnp.split(weights[f"{name}.in_proj_weight"], 3)
    biases = jnp.split(weights[f"{name}.in_proj_bias"], 3)
    ours = {f"{part}_kernel": kernel.T for part, kernel in zip(parts, kernels, strict=True)}
    ours |= {f"{part}_bias": bias for part, bias in zip(parts, biases, strict=True)}
    return ours | {
        "out_kernel": weights[f"{name}.out_proj.weight"].T,
        "out_bias": weights[f"{name}.out_proj.bias"],
    }


def _dense(weights, name):
    return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}


def _norm(weights, name):
    return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}


def _encoder(weights):
    return {
        "attend": _attention(weights, "self_attn"),
        "norm_attend": _norm(weights, "norm1"),
        "mlp": {name: _dense(weights, theirs) for name, theirs in MLP.items()},
        "norm_mlp": _norm(weights, "norm2"),
    }


def _decoder(weights):
    return _encoder(weights) | {
        "cross": _attention(weights, "multihead_attn"),
        "norm_cross": _norm(weights, "norm2"),
        "norm_mlp": _norm(weights, "norm3"),
    }


MLP = {"expand": "linear1", "contract": "linear2"}
KINDS = [("relu", False), ("relu", True), ("gelu", False), ("gelu", True)]


def _mlp(activation):
    return jl.serial(
        expand=jl.Dense(HIDDEN), activation=ACTIVATIONS[activation], contract=jl.Dense(WIDTH)
    )


def _options(activation, norm_first):
    sizes = {"d_model": WIDTH, "nhead": HEADS, "dim_feedforward": HIDDEN}
    how = {"dropout": 0.0, "activation": activation, "norm_first": norm_first}
    return sizes | how | {"batch_first": True} | F64


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize(("activation", "norm_first"), KINDS)
def test_encoder(activation, norm_first, masked):
    module = nn.TransformerEncoderLayer(**_options(activation, norm_first))
    mask = np.random.default_rng(1).random((STEPS, STEPS)) < 0.6
    np.fill_diagonal(mask, True)
    block = jl.TransformerBlock(jl.SelfAttention(HEADS), _mlp(activation), norm_first=norm_first)

    def body(f, x):
        return f.block({"x": x, "mask": jnp.asarray(mask)[None]} if masked else x)

    hidden = torch.tensor(~mask) if masked else None
    check(
        module,
        jl.compose(body, block=block),
        (BATCH, STEPS, WIDTH),
        lambda weights: {"block": _encoder(weights)},
        lambda module, x: module(x, src_mask=hidden),
    )


@pytest.mark.parametrize(("activation", "norm_first"), KINDS[1:3])
def test_decoder(activation, norm_first):
    """A causal mask on the steps, another on the memory; both are in one input."""
    module = nn.TransformerDecoderLayer(**_options(activation, norm_first))
    mask = np.random.default_rng(1).random((STEPS, KEYS)) < 0.6
    mask[:, 0] = True
    later = torch.triu(torch.ones(STEPS, STEPS, dtype=torch.bool), 1)
    block = jl.TransformerDecoderBlock(
        jl.SelfAttention(HEADS, causal=True),
        jl.CrossAttention(HEADS),
        _mlp(activation),
        norm_first=norm_first,
    )

    def body(f, x):
        given = {"x": x[:, :STEPS], "memory": x[:, STEPS:]}
        return f.block(given | {"memory_mask": jnp.asarray(mask)[None]})

    def call(module, x):
        hidden = torch.tensor(~mask)
        return module(x[:, :STEPS], x[:, STEPS:], tgt_mask=later, memory_mask=hidden)

    check(
        module,
        jl.compose(body, block=block),
        (BATCH, STEPS + KEYS, WIDTH),
        lambda weights: {"block": _decoder(weights)},
        call,
    )
