"""Convolutions and their options against PyTorch, in float64: values and gradients."""

import jax
import jax.numpy as jnp
import pytest
from oracles import convert

import jlayers as jl

torch = pytest.importorskip("torch")
nn = torch.nn

from oracles.against_torch import F64, channels_first, check  # noqa: E402

pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]

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


PATCHES = [
    {"kernel_size": (2, 3)},
    {"kernel_size": (3, 2), "stride": 2, "padding": (1, 0), "dilation": (1, 2)},
    {"kernel_size": (2, 2), "stride": (3, 2), "padding": 1},
]


@pytest.mark.parametrize("options", PATCHES, ids=convert.label)
def test_unfold_and_fold(options):
    """PyTorch has channels first and the places as one axis behind them."""
    names = {"kernel_size": "window_shape", "stride": "strides"}
    ours = {names.get(name, name): value for name, value in options.items()}
    unfold = jl.Unfold(**ours)
    sizes = (7, 6)
    patches = jl.out_spec(unfold, jl.spec((2, *sizes, 3))).shape

    def rows(module, x):
        return module(x.movedim(-1, 1)).movedim(1, -1).reshape(patches)

    check(nn.Unfold(**options), unfold, (2, *sizes, 3), around=rows)

    def image(module, x):
        return module(x.reshape(2, -1, patches[-1]).movedim(-1, 1)).movedim(1, -1)

    ours["cropping"] = ours.pop("padding", 0)
    check(nn.Fold(sizes, **options), jl.Fold(sizes=sizes, **ours), patches, around=image)


DEFORMABLE = [
    {},
    {"strides": 2, "padding": 1},
    {"padding": "SAME", "dilation": (1, 2), "groups": 2},
    {"padding": ((2, 0), (1, 3)), "strides": (1, 2), "offset_groups": 2},
]


class Deformable(nn.Module):
    """From PyTorch's own sampler, one element of the kernel after the other."""

    def __init__(self, sizes, kernel_size, strides, low, dilation, groups, offset_groups):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*kernel_size, 4 // groups, 6, **F64))
        self.bias = nn.Parameter(torch.empty(6, **F64))
        self.geometry = sizes, kernel_size, strides, low, dilation, groups, offset_groups

    def forward(self, x, offsets, modulation):
        sizes, kernel_size, strides, low, dilation, groups, parts = self.geometry
        x = x.movedim(-1, 1)
        total = self.bias
        elements = [(i, j) for i in range(kernel_size[0]) for j in range(kernel_size[1])]
        offsets = offsets.unflatten(-1, (parts, len(elements), 2))
        modulation = modulation.unflatten(-1, (parts, len(elements)))
        for k, element in enumerate(elements):
            sampled = []
            for part in range(parts):
                places = [
                    torch.arange(sizes[a]).reshape((-1, 1) if a == 0 else (1, -1)) * strides[a]
                    + (element[a] * dilation[a] - low[a])
                    + offsets[..., part, k, a]
                    for a in (0, 1)
                ]
                # From -1 to 1, the width first.
                grid = [2 * p / (n - 1) - 1 for p, n in zip(places, x.shape[2:], strict=True)]
                channels = x.unflatten(1, (parts, -1))[:, part]
                values = nn.functional.grid_sample(
                    channels, torch.stack(grid[::-1], -1), align_corners=True
                )
                sampled.append(values.movedim(1, -1) * modulation[..., part, k, None])
            pixels = torch.cat(sampled, -1).unflatten(-1, (groups, -1))
            kernel = self.weight[element].unflatten(-1, (groups, -1))
            total = total + torch.einsum("bhwgc,cgf->bhwgf", pixels, kernel).flatten(-2)
        return total


@pytest.mark.parametrize("modulated", [True, False], ids=["modulated", "plain"])
@pytest.mark.parametrize("options", DEFORMABLE, ids=convert.label)
def test_deformable_conv(options, modulated):
    """The image, its offsets and its modulation in one array, so that all have gradients."""
    options = dict(options)
    parts = options.pop("offset_groups", 1)
    layer = jl.DeformableConv(6, (3, 2), **options)
    both = [
        value if isinstance(value, tuple) else (value, value)
        for value in (options.get("strides", 1), options.get("dilation", 1))
    ]
    plain = jl.Conv(6, (3, 2), **options)
    sizes = jl.out_spec(plain, jl.spec((2, 6, 5, 4))).shape[1:-1]
    padding = options.get("padding", 0)
    low = (
        {"SAME": (1, 1), 1: (1, 1), 0: (0, 0)}.get(padding)
        if not isinstance(padding, tuple)
        else (2, 1)
    )
    shapes = [(2, 6, 5, 4), (2, *sizes, parts * 12), (2, *sizes, parts * 6)]
    cuts = [0]
    for shape in shapes:
        cuts.append(cuts[-1] + int(torch.tensor(shape).prod()))

    def split(flat):
        return [flat[a:b].reshape(s) for a, b, s in zip(cuts, cuts[1:], shapes, strict=False)]

    def theirs(module, flat):
        image, offsets, modulation = split(flat)
        return module(image, offsets, modulation if modulated else torch.ones_like(modulation))

    def ours(flat):
        return tuple(split(flat)[: 3 if modulated else 2])

    module = Deformable(sizes, (3, 2), both[0], low, both[1], options.get("groups", 1), parts)
    flat = 1.3 * convert.draw_input((cuts[-1],), "float64")
    check(
        module,
        jl.serial(ours, layer=layer),
        flat,
        lambda w: {"layer": {"kernel": w["weight"], "bias": w["bias"]}},
        theirs,
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_weight_standardization(groups):
    class Standardized(nn.Conv2d):
        def forward(self, x):
            var, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
            weight = (self.weight - mean) / torch.sqrt(var + 1e-3)
            return self._conv_forward(x, weight, self.bias)

    check(
        Standardized(4, 6, (3, 2), groups=groups, **F64),
        jl.standardize_weights(jl.Conv(6, (3, 2), groups=groups), epsilon=1e-3),
        (2, 6, 5, 4),
        convert.torch_conv,
        channels_first,
    )
