"""Every layer against PyTorch, in float64: values and gradients, the same weights."""

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


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)], ids=str)
def test_dense(shape, bias):
    module = nn.Linear(4, 3, bias=bias, **F64)
    check(module, jl.Dense(3, bias=bias), shape, convert.torch_linear)


PADS = {
    "reflect": nn.ReflectionPad2d,
    "replicate": nn.ReplicationPad2d,
    "circular": nn.CircularPad2d,
    "constant": lambda edges: nn.ConstantPad2d(edges, 0.5),
}


@pytest.mark.parametrize("mode", PADS)
def test_pad(mode):
    # PyTorch begins with the last axis: left, right, top, bottom.
    value = {"value": 0.5} if mode == "constant" else {}
    layer = jl.Pad(((1, 3), (2, 0)), mode=mode, **value)
    check(PADS[mode]((2, 0, 1, 3)), layer, (2, 5, 4, 3), around=channels_first)


def test_channels_and_pixels():
    x = (2, 4, 6, 12)
    check(nn.PixelShuffle(2), jl.PixelShuffle(2), x, around=channels_first)
    check(nn.PixelUnshuffle(2), jl.PixelUnshuffle(2), x, around=channels_first)
    check(nn.ChannelShuffle(3), jl.ChannelShuffle(3), x, around=channels_first)


@pytest.mark.parametrize("p", [1, 2, 3.5])
@pytest.mark.parametrize("strides", [None, 1])
def test_lp_pool(p, strides):
    x = np.abs(convert.draw_input((2, 5, 6, 3), "float64"))
    check(
        nn.LPPool2d(p, (2, 3), strides),
        jl.LpPool(p, (2, 3), strides=strides),
        x,
        around=channels_first,
    )


@pytest.mark.parametrize("options", [{}, {"strides": 1, "padding": 1}], ids=convert.label)
def test_min_and_sum_pool(options):
    """PyTorch has neither: its maximum of the negative, and its mean times the window."""

    class Turned(nn.MaxPool2d):
        def forward(self, x):
            return -super().forward(-x)

    own = torch_options(options)
    x = (2, 5, 6, 3)
    check(Turned(3, **own), jl.MinPool(3, **options), x, around=channels_first)
    check(
        nn.AvgPool2d(3, divisor_override=1, **own),
        jl.SumPool(3, **options),
        x,
        around=channels_first,
    )


@pytest.mark.parametrize("size", [1, 4, 5])
def test_local_response_norm(size):
    oracle = nn.LocalResponseNorm(size, alpha=0.7, beta=0.6, k=1.5)
    layer = jl.LocalResponseNorm(size, alpha=0.7, beta=0.6, k=1.5)
    check(oracle, layer, (2, 3, 2, 6), around=channels_first)


def test_instance_norm():
    oracle = nn.InstanceNorm2d(5, eps=1e-2, affine=True, **F64)
    check(
        oracle,
        jl.InstanceNorm(epsilon=1e-2),
        (2, 3, 4, 5),
        lambda w: {"scale": w["weight"], "bias": w["bias"]},
        channels_first,
    )


@pytest.mark.parametrize("p", [2, 1, 3.5])
@pytest.mark.parametrize("axis", [-1, (1, 2)], ids=str)
def test_unit_norm(axis, p):
    class Normalize(nn.Module):
        def forward(self, x):
            return nn.functional.normalize(x, p=p, dim=axis)

    check(Normalize(), jl.UnitNorm(axis, p=p), (2, 3, 4))


def test_bilinear():
    def both(module, x):
        return module(x[..., :4], x[..., 4:])

    check(
        nn.Bilinear(4, 3, 5, **F64),
        jl.serial(lambda x: (x[..., :4], x[..., 4:]), bilinear=jl.Bilinear(5)),
        (2, 6, 7),
        lambda w: {
            "bilinear": {"kernel": jnp.transpose(w["weight"], (1, 2, 0)), "bias": w["bias"]}
        },
        both,
    )


@pytest.mark.parametrize("per_feature", [False, True])
def test_prelu(per_feature):
    check(
        nn.PReLU(4 if per_feature else 1, **F64),
        jl.PReLU(feature_axes=-1 if per_feature else ()),
        (3, 4),
        lambda w: {"slope": w["weight"] if per_feature else w["weight"][0]},
    )


def test_embedding():
    ids = convert.draw_ids((2, 3), 5)
    check(nn.Embedding(5, 3, **F64), jl.Embedding(5, 3), ids, convert.torch_embedding)


SIZE, SMALL, KERNEL = (7, 5, 4), (4, 3, 2), (3, 2, 2)


def torch_options(options):
    """Our options by the names that PyTorch has for them."""
    names = {"strides": "stride"}
    return {names.get(name, name): value for name, value in options.items()}


CONV = [
    {},
    {"padding": (1, 2, 1)},
    {"strides": (2, 1, 3)},
    {"strides": (3, 2, 2), "padding": 1},
    {"dilation": (2, 3, 1)},
    {"dilation": 2, "padding": "same"},
    {"groups": 2, "strides": 2, "padding": 1, "dilation": (2, 1, 1)},
    {"bias": False},
]


@pytest.mark.parametrize("options", CONV, ids=convert.label)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv(rank, options):
    options = convert.cut(options, rank)
    module = getattr(nn, f"Conv{rank}d")
    check(
        module(4, 6, KERNEL[:rank], **torch_options(options), **F64),
        jl.Conv(6, KERNEL[:rank], **options),
        (2, *SIZE[:rank], 4),
        convert.torch_conv,
        channels_first,
    )


CONV_TRANSPOSE = [
    {},
    {"strides": (2, 3, 1)},
    {"strides": 2, "padding": 1},
    {"strides": (3, 2, 2), "padding": (2, 1, 1), "output_padding": (2, 1, 1)},
    {"dilation": 2, "strides": 2, "padding": 1},
    {"groups": 2, "strides": 2, "bias": False},
]


@pytest.mark.parametrize("options", CONV_TRANSPOSE, ids=convert.label)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_transpose(rank, options):
    options = convert.cut(options, rank)
    module = getattr(nn, f"ConvTranspose{rank}d")
    ours = dict(options)
    crop = ours.pop("padding", 0), ours.pop("output_padding", 0)
    ours["padding"] = convert.torch_transposed_padding(
        KERNEL[:rank], ours.get("dilation", 1), *crop
    )
    check(
        module(4, 6, KERNEL[:rank], **torch_options(options), **F64),
        jl.ConvTranspose(6, KERNEL[:rank], **ours),
        (2, *SMALL[:rank], 4),
        convert.torch_conv_transpose(options.get("groups", 1)),
        channels_first,
    )


@pytest.mark.parametrize("strides", [1, 2, 4])
def test_valid_is_no_padding(strides):
    """``"VALID"`` is PyTorch's default, and the rest of the last stride where that is longer."""
    check(
        nn.ConvTranspose1d(4, 6, 3, strides, output_padding=max(strides - 3, 0), **F64),
        jl.ConvTranspose(6, 3, strides=strides),
        (2, 5, 4),
        convert.torch_conv_transpose(),
        channels_first,
    )


POOL = [
    {},
    {"padding": 1},
    {"strides": (1, 2, 3)},
    {"strides": 2, "padding": (1, 0, 1)},
]


@pytest.mark.parametrize("options", POOL, ids=convert.label)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "more"),
    [("Max", {}), ("Avg", {"count_include_pad": True}), ("Avg", {"count_include_pad": False})],
    ids=["max", "avg, padding counts", "avg"],
)
def test_pool(name, more, rank, options):
    options = convert.cut(options, rank) | more
    check(
        getattr(nn, f"{name}Pool{rank}d")(KERNEL[:rank], **torch_options(options)),
        getattr(jl, f"{name}Pool")(KERNEL[:rank], **options),
        (2, *SIZE[:rank], 2),
        around=channels_first,
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", ["Max", "Avg"])
def test_global_pool(name, rank):
    check(
        nn.Sequential(getattr(nn, f"Adaptive{name}Pool{rank}d")(1), nn.Flatten()),
        getattr(jl, f"Global{name}Pool")(),
        (2, *SIZE[:rank], 3),
        around=lambda module, x: module(x.movedim(-1, 1)),
    )


def test_flatten():
    check(nn.Flatten(), jl.Flatten(), (2, 3, 4, 2))


@pytest.mark.parametrize("shape", [(6, 4), (4, -1, 2)], ids=str)
def test_reshape(shape):
    check(nn.Unflatten(1, shape), jl.Reshape(shape), (2, 24))


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5)], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"scale": False, "bias": False}],
    ids=convert.label,
)
def test_layer_norm(shape, options):
    names = {"scale": "elementwise_affine", "bias": "bias"}
    theirs = {names[name]: value for name, value in options.items()}
    module = nn.LayerNorm(5, eps=1e-2, **theirs, **F64)
    check(module, jl.LayerNorm(epsilon=1e-2, **options), shape, convert.torch_norm)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_batch_norm(rank, affine, train):
    """Outputs with their gradients, and the new running statistics."""
    shape = (4, *SMALL[:rank], 3)
    # PyTorch's momentum is the share of the new.
    module = getattr(nn, f"BatchNorm{max(rank, 1)}d")
    module = module(3, eps=1e-2, momentum=0.2, affine=affine, **F64).train(train)
    layer = jl.BatchNorm(epsilon=1e-2, momentum=0.8, scale=affine, bias=affine)
    weights, x = load_random(module), convert.draw_input(shape, "float64")
    old = convert.torch_running(weights)
    wanted = reference(module, lambda x: channels_first(module, x), x)

    def ours(weights, x):
        return layer.apply(convert.torch_norm(weights), old, x, train=train)

    parameters = {name: weights[name] for name, _ in module.named_parameters()}
    got = convert.value_and_gradients(lambda w, x: ours(w, x)[0], parameters, x)
    convert.agree(wanted, got)

    state = ours(parameters, jnp.asarray(x))[1]
    new = convert.torch_running({k: v.numpy() for k, v in module.state_dict().items()})
    if train:
        # PyTorch runs with the unbiased variance: the rows' number over one less.
        rows = x.size / 3
        new["var"] = 0.8 * old["var"] + (new["var"] - 0.8 * old["var"]) * (rows - 1) / rows
    convert.agree(new, state)


RECURRENT = {
    "LSTM": (nn.LSTM, jl.LSTM, convert.torch_rnn),
    "GRU": (nn.GRU, jl.GRU, convert.torch_gru),
    "SimpleRNN": (nn.RNN, jl.SimpleRNN, convert.torch_rnn),
}


def sequence(module, x):
    return module(x)[0]


def last(module, x):
    """The last hidden states of both directions, side by side."""
    hidden = module(x)[1]
    hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    return torch.cat(tuple(hidden), -1)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("around", [sequence, last])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent(name, around, bias):
    module, layer, conversion = RECURRENT[name]
    check(
        module(4, 3, bias=bias, batch_first=True, **F64),
        layer(3, bias=bias, return_sequences=around is sequence),
        (2, 5, 4),
        conversion(),
        around,
    )


@pytest.mark.parametrize("around", [sequence, last])
@pytest.mark.parametrize("name", RECURRENT)
def test_bidirectional(name, around):
    module, layer, conversion = RECURRENT[name]
    check(
        module(4, 3, bidirectional=True, batch_first=True, **F64),
        jl.bidirectional(layer(3, return_sequences=around is sequence)),
        (2, 5, 4),
        convert.torch_bidirectional(conversion),
        around,
    )


def test_reverse():
    """PyTorch has no reversed layer: the second direction of one that goes both ways."""
    check(
        nn.LSTM(4, 3, bidirectional=True, batch_first=True, **F64),
        jl.concat(forward=jl.LSTM(3), backward=jl.LSTM(3, reverse=True)),
        (2, 5, 4),
        convert.torch_bidirectional(convert.torch_rnn),
        sequence,
    )


def test_layers_on_layers():
    convert_layers = [convert.torch_bidirectional(convert.torch_rnn, layer) for layer in (0, 1)]
    check(
        nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True, **F64),
        jl.serial(below=jl.bidirectional(jl.LSTM(3)), above=jl.bidirectional(jl.LSTM(3))),
        (2, 5, 4),
        lambda w: {name: f(w) for name, f in zip(("below", "above"), convert_layers, strict=True)},
        sequence,
    )
