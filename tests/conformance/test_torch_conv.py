"""Convolutions and their options against PyTorch, in float64: values and gradients."""

import jax
import jax.numpy as jnp
import pytest
from oracles import convert

import jlayers as jl

torch = pytest.importorskip("torch")
nn = torch.nn

from oracles.against_torch import F64, channels_first, check  # noqa: E402

pytestmark = pytest.mark.conformance

SIZE, SMALL, KERNEL = (7, 6, 5), (4, 3, 2), (3, 2, 2)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


MODES = ["reflect", "replicate", "circular"]
OPTIONS = [
    {"padding": (2, 1, 1)},
    {"padding": 1, "stride": (2, 1, 2), "groups": 2},
    {"padding": "same", "dilation": (1, 3, 2)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=convert.label)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_padding_mode(rank, mode, options):
    options = convert.cut(options, rank) | {"padding_mode": mode}
    ours = {{"stride": "strides"}.get(name, name): value for name, value in options.items()}
    check(
        getattr(nn, f"Conv{rank}d")(4, 6, KERNEL[:rank], **options, **F64),
        jl.Conv(6, KERNEL[:rank], **ours),
        (2, *SIZE[:rank], 4),
        convert.torch_conv,
        channels_first,
    )


CONV_TRANSPOSE = [
    {},
    {"stride": (3, 2, 4)},
    {"stride": 2, "padding": (2, 1, 1)},
    {"stride": (3, 2, 2), "padding": (2, 1, 1), "output_padding": (2, 1, 1)},
    {"stride": 2, "output_padding": 1, "dilation": 2},
    {"stride": 3, "padding": (1, 0, 1), "groups": 2, "bias": False},
    {"stride": 1, "padding": 1, "groups": 4, "dilation": (1, 2, 2)},
]


def kernel_of_the_convolution(weights):
    """PyTorch keeps (in, out / groups, *size)."""
    kernel = jnp.moveaxis(weights["weight"], (0, 1), (-1, -2))
    return {name: w for name, w in weights.items() if name == "bias"} | {"kernel": kernel}


@pytest.mark.parametrize("options", CONV_TRANSPOSE, ids=convert.label)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_transpose(rank, options):
    """Option for option, and the weights with their axes in our order alone."""
    options = convert.cut(options, rank)
    names = {"stride": "strides", "padding": "cropping"}
    ours = {"cropping": 0} | {names.get(name, name): value for name, value in options.items()}
    check(
        getattr(nn, f"ConvTranspose{rank}d")(4, 8, KERNEL[:rank], **options, **F64),
        jl.ConvTranspose(8, KERNEL[:rank], transpose_kernel=True, **ours),
        (2, *SMALL[:rank], 4),
        kernel_of_the_convolution,
        channels_first,
    )


@pytest.mark.parametrize("strides", [1, 2, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2])
def test_causal_conv_transpose(strides, dilation):
    """PyTorch's whole output, of which the end is left out that belongs to later inputs."""
    size = 5 * strides

    def beginning(module, x):
        y = channels_first(module, x)[:, :size]
        # Of a short kernel the rest of the last stride is the bias alone.
        return torch.cat([y, module.bias.expand(2, size - y.shape[1], 6)], 1)

    check(
        nn.ConvTranspose1d(4, 6, 3, strides, dilation=dilation, **F64),
        jl.ConvTranspose(6, 3, strides=strides, dilation=dilation, padding="CAUSAL"),
        (2, 5, 4),
        convert.torch_conv_transpose(),
        beginning,
    )


@pytest.mark.parametrize("kernel_size", [3, 4])
def test_strides_and_padding_of_one(kernel_size):
    """PyTorch pads both ends; ``"SAME"`` would pad the end alone, and read other pixels."""
    options = {"padding": 1, **F64}
    check(
        nn.Conv2d(4, 6, kernel_size, 2, **options),
        jl.Conv(6, kernel_size, strides=2, padding=1),
        (2, 8, 8, 4),
        convert.torch_conv,
        channels_first,
    )
