"""Every layer against Flax's linen, in float64: values and gradients, the same weights."""

import jax
import numpy as np
import pytest
from flax import linen as nn
from oracles import convert
from tables.tiers import sample

import jlayers as jl

pytestmark = pytest.mark.oracle("Flax")
F64 = {"param_dtype": "float64"}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def check(oracle, layer, x, conversion=convert.same, vanishing=frozenset()):
    """``oracle``, a module or a function, and ``layer`` agree on ``x`` (an array or a shape)."""
    apply = jl.without_state(layer).apply
    x = convert.draw_input(x, "float64") if isinstance(x, tuple) else x
    if isinstance(oracle, nn.Module):
        weights = draw(oracle, x).get("params", {})

        def theirs(weights, x):
            return oracle.apply({"params": weights}, x)
    else:
        weights, theirs = {}, lambda weights, x: oracle(x)
    convert.compare(theirs, lambda w, x: apply(conversion(w), x), weights, x, vanishing)


def draw(module, x):
    with convert.lenient():
        shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    # Flax makes running statistics in float32 whatever it is told.
    return jax.tree.map(lambda value: value.astype("float64"), convert.draw(shapes))


def flax_options(options):
    """Our options by the names that Flax has for them."""
    names = {"bias": "use_bias", "dilation": "kernel_dilation", "groups": "feature_group_count"}
    return {names.get(name, name): value for name, value in options.items()}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", sample([(4,), (3, 4), (2, 3, 4)], 1), ids=str)
def test_dense(shape, bias):
    check(nn.Dense(3, use_bias=bias, **F64), jl.Dense(3, bias=bias), shape)


@pytest.mark.parametrize(
    ("features", "axis"), [((2, 3), -1), (5, (1, -1)), ((2, 3), (1, 2))], ids=str
)
def test_dense_over_axes(features, axis):
    oracle = nn.DenseGeneral(features, axis, **F64)
    check(oracle, jl.Dense(features, axis=axis), (2, 3, 4, 5))


@pytest.mark.parametrize(
    ("equation", "sizes", "bias_axes"),
    [("...d,dhk->...hk", {"h": 2, "k": 3}, "hk"), ("bthk,hkd->btd", {"d": 5}, "d")],
    ids=["to heads", "from heads"],
)
def test_einsum(equation, sizes, bias_axes):
    shape = (2, 3, 4) if "..." in equation else (2, 3, 4, 5)
    known = {"d": 4} | sizes if "..." in equation else {"h": 4, "k": 5} | sizes
    kernel = equation.split(",")[1].split("->")[0]
    oracle = nn.Einsum([known[letter] for letter in kernel], equation, **F64)
    check(oracle, jl.Einsum(equation, bias_axes=bias_axes, **sizes), shape)


def test_prelu():
    check(nn.PReLU(**F64), jl.PReLU(), (3, 4), lambda w: {"slope": w["negative_slope"]})


def test_embedding():
    check(nn.Embed(5, 3, **F64), jl.Embedding(5, 3), convert.draw_ids((2, 3), 5))


def test_tied():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, ids):
            embed = nn.Embed(5, 3, **F64)
            return embed.attend(nn.tanh(embed(ids)))

    oracle, ids = Model(), convert.draw_ids((2, 3), 5)
    layer = jl.tied(jl.Embedding(5, 3), jax.numpy.tanh)
    check(oracle, layer, ids, lambda weights: {"embedding": weights["Embed_0"]})


SIZE, SMALL, KERNEL = (7, 5, 4), (4, 3, 2), (3, 2, 2)
CONV = [
    {},
    {"padding": "SAME"},
    {"strides": (2, 1, 3)},
    {"strides": (3, 2, 2), "padding": "SAME"},
    {"dilation": (2, 3, 1)},
    {"dilation": 2, "strides": 2, "padding": "SAME"},
    {"padding": 1},
    {"padding": ((0, 2), (1, 0), (3, 1)), "strides": 2, "groups": 2},
    {"bias": False, "groups": 2},
]


@pytest.mark.parametrize("options", sample(CONV, 7), ids=convert.label)
@pytest.mark.parametrize("rank", sample([1, 2, 3], 1))
def test_conv(rank, options):
    options = {"padding": "VALID", **convert.cut(options, rank)}
    oracle = nn.Conv(4, KERNEL[:rank], **flax_options(options), **F64)
    check(oracle, jl.Conv(4, KERNEL[:rank], **options), (2, *SIZE[:rank], 2))


@pytest.mark.parametrize(
    "options", sample([{}, {"dilation": 2}, {"strides": 2}, {"groups": 2}], 1), ids=convert.label
)
def test_causal_conv(options):
    options = {"padding": "CAUSAL", **options}
    check(nn.Conv(4, (3,), **flax_options(options), **F64), jl.Conv(4, 3, **options), (2, 7, 2))


@pytest.mark.parametrize(
    "options",
    sample(
        [
            {"padding": "SAME", "strides": (2, 1, 3), "dilation": (1, 2, 1)},
            {},
            {"padding": ((1, 2), (0, 3), (2, 1)), "bias": False},
            {"padding": "CIRCULAR", "strides": 2},
        ]
    ),
    ids=convert.label,
)
@pytest.mark.parametrize("rank", sample([1, 2, 3], 1))
def test_local_conv(rank, options):
    options = {"padding": "VALID", **convert.cut(options, rank)}
    oracle = nn.ConvLocal(3, KERNEL[:rank], **flax_options(options), **F64)

    def conversion(weights):
        kernel = weights["kernel"]
        # Of each pixel Flax has a row, of all elements of a channel after another.
        kernel = kernel.reshape(*kernel.shape[:rank], 2, *KERNEL[:rank], 3)
        return {**weights, "kernel": jax.numpy.moveaxis(kernel, rank, -2)}

    check(oracle, jl.LocalConv(3, KERNEL[:rank], **options), (2, *SIZE[:rank], 2), conversion)


CONV_TRANSPOSE = [
    {},
    {"padding": "SAME"},
    {"strides": (2, 3, 1)},
    {"strides": (3, 2, 2), "padding": "SAME"},
    {"strides": 4},
    {"strides": 4, "padding": "SAME"},
    {"dilation": 2, "strides": 2},
    {"dilation": 2, "strides": 2, "padding": "SAME"},
    {"padding": ((1, 2), (0, 1), (1, 1)), "strides": 2, "bias": False},
]


@pytest.mark.parametrize("options", sample(CONV_TRANSPOSE, 3, 8), ids=convert.label)
@pytest.mark.parametrize("rank", sample([1, 2, 3], 1))
def test_conv_transpose(rank, options):
    options = {"padding": "VALID", **convert.cut(options, rank)}
    oracle = nn.ConvTranspose(4, KERNEL[:rank], **flax_options(options), **F64)
    check(oracle, jl.ConvTranspose(4, KERNEL[:rank], **options), (2, *SMALL[:rank], 2))


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_conv_transpose_with_the_kernel_of_the_convolution(padding):
    options = {"strides": 2, "padding": padding}
    check(
        nn.ConvTranspose(4, (3, 2), transpose_kernel=True, **options, **F64),
        jl.ConvTranspose(4, (3, 2), **options),
        (2, 4, 3, 2),
        convert.flax_conv_transpose_transposed,
    )
    check(
        nn.ConvTranspose(4, (3, 2), transpose_kernel=True, **options, **F64),
        jl.ConvTranspose(4, (3, 2), transpose_kernel=True, **options),
        (2, 4, 3, 2),
    )


@pytest.mark.parametrize("strides", [(1, 1), (2, 3), (4, 1)], ids=str)
@pytest.mark.parametrize("kernel_size", [(3, 4), (5, 2), (1, 7)], ids=str)
def test_circular_conv_transpose(kernel_size, strides):
    options = {"strides": strides, "padding": "CIRCULAR"}
    oracle = nn.ConvTranspose(4, kernel_size, **options, **F64)
    check(oracle, jl.ConvTranspose(4, kernel_size, **options), (2, 4, 3, 2))


@pytest.mark.parametrize("name", ["Conv", "ConvTranspose"])
def test_masked_kernel(name):
    mask = (np.random.default_rng(3).random((3, 2, 2, 4)) < 0.5).astype("float64")
    options = {"padding": "SAME", "strides": 2}
    check(
        getattr(nn, name)(4, (3, 2), mask=mask, **options, **F64),
        getattr(jl, name)(4, (3, 2), kernel_mask=mask, **options),
        (2, 4, 3, 2),
    )


POOL = [
    {},
    {"padding": "SAME"},
    {"strides": (1, 2, 3)},
    {"strides": (2, 2, 2), "padding": "SAME"},
    {"padding": ((0, 2), (1, 0), (1, 1)), "strides": (2, 1, 2)},
]


@pytest.mark.parametrize("options", sample(POOL, 4), ids=convert.label)
@pytest.mark.parametrize("rank", sample([1, 2, 3], 1))
@pytest.mark.parametrize(
    ("oracle", "layer", "more"),
    [
        (nn.max_pool, jl.MaxPool, {}),
        (nn.avg_pool, jl.AvgPool, {"count_include_pad": True}),
        (nn.avg_pool, jl.AvgPool, {"count_include_pad": False}),
    ],
    ids=["max", "avg, padding counts", "avg"],
)
def test_pool(oracle, layer, more, rank, options):
    # The strides of a pool are 1 by default in Flax.
    options = {"strides": (1, 1, 1), **options, **more}
    options = convert.cut(options, rank)
    check(
        lambda x: oracle(x, KERNEL[:rank], **options),
        layer(KERNEL[:rank], **options),
        (2, *SIZE[:rank], 2),
    )


NORM = [{}, {"scale": False}, {"bias": False}, {"scale": False, "bias": False}]


def norm_options(options):
    return {f"use_{name}": value for name, value in options.items()}


@pytest.mark.parametrize("options", sample(NORM), ids=convert.label)
@pytest.mark.parametrize("shape", sample([(4, 5), (2, 3, 5)], 1), ids=str)
def test_layer_norm(shape, options):
    oracle = nn.LayerNorm(epsilon=1e-2, **norm_options(options), **F64)
    check(oracle, jl.LayerNorm(epsilon=1e-2, **options), shape)


@pytest.mark.parametrize("options", sample(NORM), ids=convert.label)
@pytest.mark.parametrize("groups", sample([1, 2, 6], 1))
def test_group_norm(groups, options):
    oracle = nn.GroupNorm(groups, epsilon=1e-2, **norm_options(options), **F64)
    check(oracle, jl.GroupNorm(groups, epsilon=1e-2, **options), (2, 3, 2, 6))


@pytest.mark.parametrize("scale", [True, False], ids=["scale", "plain"])
def test_rms_norm(scale):
    oracle = nn.RMSNorm(epsilon=1e-2, use_scale=scale, **F64)
    check(oracle, jl.RMSNorm(epsilon=1e-2, scale=scale), (2, 3, 5))


@pytest.mark.parametrize("method", ["direct", "blocks"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize(
    "options", sample([{}, {"bias": False}, {"head_dim": 3, "features": 5}], 2), ids=convert.label
)
def test_self_attention(options, causal, method):
    shape, names = (2, 7, 4), {"features": "out_features", "bias": "use_bias"}
    theirs = {names.get(name, name): value for name, value in options.items()}
    if size := theirs.pop("head_dim", None):
        theirs["qkv_features"] = 2 * size
    mask = np.tril(np.ones((1, 1, shape[1], shape[1]), bool)) if causal else None

    class Masked(nn.MultiHeadDotProductAttention):
        def __call__(self, x):
            return super().__call__(x, mask=mask)

    layer = jl.SelfAttention(2, causal=causal, method=method, **options)
    # A bias of the keys moves all scores of a query alike: its gradient is zero but for rounding.
    check(Masked(2, **theirs, **F64), layer, shape, convert.flax_attention, {"['key']['bias']"})


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", sample(NORM), ids=convert.label)
@pytest.mark.parametrize("shape", sample([(4, 3), (2, 3, 2, 3)], 1), ids=str)
def test_batch_norm(shape, options, train):
    """Outputs and new running statistics, with gradients through both."""
    settings = {"momentum": 0.8, "epsilon": 1e-2}
    layer = jl.BatchNorm(**settings, **options)
    oracle = nn.BatchNorm(use_running_average=not train, **settings, **norm_options(options), **F64)
    x = convert.draw_input(shape, "float64")

    def theirs(weights, x):
        y, new = oracle.apply(weights, x, mutable=["batch_stats"])
        return y, new["batch_stats"]

    def ours(weights, x):
        return layer.apply(weights.get("params", {}), weights["batch_stats"], x, train=train)

    convert.compare(theirs, ours, draw(oracle, x), x)


RECURRENT = {
    "LSTM": (nn.LSTMCell, jl.LSTM, convert.flax_lstm),
    "OptimizedLSTM": (nn.OptimizedLSTMCell, jl.LSTM, convert.flax_lstm),
    "GRU": (nn.GRUCell, jl.GRU, convert.flax_gru),
    "SimpleRNN": (nn.SimpleCell, jl.SimpleRNN, convert.flax_simple_rnn),
}


@pytest.mark.parametrize("sequences", sample([True, False]), ids=["sequence", "last"])
@pytest.mark.parametrize("reverse", sample([False, True], 1), ids=["forward", "reverse"])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent(name, reverse, sequences):
    cell, layer, conversion = RECURRENT[name]
    oracle = nn.RNN(cell(3, **F64), reverse=reverse, keep_order=True)
    last = 0 if reverse else -1
    check(
        oracle if sequences else nn.Sequential([oracle, lambda y: y[:, last]]),
        layer(3, reverse=reverse, return_sequences=sequences),
        (2, 4, 5),
        conversion if sequences else lambda weights: conversion(weights["layers_0"]),
    )


@pytest.mark.parametrize(
    "options",
    sample([{}, {"reset_gate": False}, {"activation": nn.relu, "recurrent_activation": nn.tanh}]),
    ids=lambda options: ",".join(options) or "default",
)
def test_mgu(options):
    names = {"activation": "activation_fn", "recurrent_activation": "gate_fn"}
    theirs = {names.get(name, name): value for name, value in options.items()}
    oracle = nn.RNN(nn.MGUCell(3, **theirs, **F64))
    check(oracle, jl.MGU(3, **options), (2, 4, 5), convert.flax_mgu)


@pytest.mark.parametrize("name", sample(["LSTM", "GRU", "SimpleRNN"]))
def test_bidirectional(name):
    cell, layer, conversion = RECURRENT[name]
    check(
        nn.Bidirectional(nn.RNN(cell(3, **F64)), nn.RNN(cell(3, **F64))),
        jl.bidirectional(layer(3)),
        (2, 4, 5),
        convert.flax_bidirectional(conversion),
    )
