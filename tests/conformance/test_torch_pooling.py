"""Pools against PyTorch's, in float64: values and gradients over a grid of options."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert

import jlayers as jl

torch = pytest.importorskip("torch")
nn = torch.nn

from oracles.against_torch import F64, channels_first, check  # noqa: E402

pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]

SIZE = (7, 6, 5)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


WINDOWS = [
    {"window": 3, "strides": 2, "padding": 1},
    {"window": 2, "strides": 3, "padding": 1},
    {"window": (2, 3, 2), "strides": (1, 2, 3), "padding": (1, 1, 0)},
    {"window": (3, 2, 4), "strides": 4, "padding": (0, 1, 2)},
    {"window": 2, "strides": None, "padding": 0},
]


def _cut(options, rank):
    options = convert.cut(options, rank)
    return options.pop("window"), options


@pytest.mark.parametrize("dilation", [1, 2, (3, 1, 2)], ids=str)
@pytest.mark.parametrize("ceil_mode", [False, True], ids=["floor", "ceil"])
@pytest.mark.parametrize("options", WINDOWS, ids=convert.label)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_max_pool(rank, options, ceil_mode, dilation):
    window, options = _cut(options | {"dilation": dilation}, rank)
    strides = options.pop("strides")
    layer = jl.MaxPool(window, strides=strides, ceil_mode=ceil_mode, **options)
    try:
        jl.out_spec(layer, jl.spec((2, *SIZE[:rank], 2)))
    except jl.LayerError as error:
        # PyTorch gives minus infinity there, or refuses the window too.
        if "nothing else in them" in str(error) or "is larger than" in str(error):
            return
        raise
    check(
        getattr(nn, f"MaxPool{rank}d")(window, strides, ceil_mode=ceil_mode, **options),
        layer,
        (2, *SIZE[:rank], 2),
        around=channels_first,
    )


@pytest.mark.parametrize("count", [False, True], ids=["mean of pixels", "padding counts"])
@pytest.mark.parametrize("ceil_mode", [False, True], ids=["floor", "ceil"])
@pytest.mark.parametrize("options", WINDOWS, ids=convert.label)
# PyTorch has no divisor for one axis.
@pytest.mark.parametrize(("rank", "divisor"), [(1, None), (2, None), (2, 7), (3, None), (3, 7)])
def test_avg_pool(rank, options, ceil_mode, count, divisor):
    window, options = _cut(options, rank)
    strides = options.pop("strides")
    options = {"ceil_mode": ceil_mode, "count_include_pad": count, **options}
    theirs = {"divisor_override": divisor} if divisor else {}
    check(
        getattr(nn, f"AvgPool{rank}d")(window, strides, **options, **theirs),
        jl.AvgPool(window, strides=strides, divisor=divisor, **options),
        (2, *SIZE[:rank], 2),
        around=channels_first,
    )


ADAPTIVE = [(3, 2, 5), (7, 4, 1), (None, 3, 2), (9, 6, 4), (1, 1, 1)]


@pytest.mark.parametrize("sizes", ADAPTIVE, ids=str)
@pytest.mark.parametrize("name", ["Avg", "Max"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_adaptive_pool(rank, name, sizes):
    theirs = tuple(size or n for size, n in zip(sizes, SIZE, strict=True))[:rank]
    check(
        getattr(nn, f"Adaptive{name}Pool{rank}d")(theirs),
        getattr(jl, f"Adaptive{name}Pool")(sizes[:rank]),
        (2, *SIZE[:rank], 3),
        around=channels_first,
    )


def _with_indices(module, layer, shape, digits):
    """Values and places of a pool agree, and equal values are as many as ``digits`` leave."""
    x = np.random.default_rng(0).normal(size=shape).round(digits)
    y, indices = layer.apply({}, {}, jnp.asarray(x))[0]
    wanted, places = module(torch.tensor(x).movedim(-1, 1))
    np.testing.assert_array_equal(y, wanted.movedim(1, -1))
    np.testing.assert_array_equal(indices, places.movedim(1, -1))
    assert indices.dtype == jnp.int32


@pytest.mark.parametrize("digits", [0, 6])
@pytest.mark.parametrize(
    "options",
    [{}, {"strides": 2, "padding": 1, "ceil_mode": True}, {"strides": 1, "dilation": (2, 1, 2)}],
    ids=convert.label,
)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_indices(rank, options, digits):
    options = convert.cut(options, rank)
    theirs = dict(options)
    strides = theirs.pop("strides", None)
    module = getattr(nn, f"MaxPool{rank}d")(3, strides, return_indices=True, **theirs)
    layer = jl.MaxPool(3, indices=True, **options)
    _with_indices(module, layer, (2, *SIZE[:rank], 2), digits)


@pytest.mark.parametrize("sizes", [(3, 2, 5), (7, 4, 1)], ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_indices_of_adaptive_pools(rank, sizes):
    module = getattr(nn, f"AdaptiveMaxPool{rank}d")(sizes[:rank], return_indices=True)
    layer = jl.AdaptiveMaxPool(sizes[:rank], indices=True)
    _with_indices(module, layer, (2, *SIZE[:rank], 2), 0)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [({}, None), ({}, SIZE), ({"strides": 3, "padding": 1}, SIZE), ({"strides": 2}, SIZE)],
    ids=str,
)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_unpool(rank, options, sizes):
    """There and back, with the gradient through both."""
    ours, theirs = dict(options), dict(options)
    window, strides = 2, theirs.pop("strides", None)
    # Without a size, one that the windows cover.
    size = tuple(n if sizes else n - n % 2 for n in SIZE)[:rank]

    class Both(nn.Module):
        def forward(self, x):
            pool = getattr(nn, f"MaxPool{rank}d")(window, strides, return_indices=True, **theirs)
            back = getattr(nn, f"MaxUnpool{rank}d")(window, strides, **theirs)
            return back(*pool(x), output_size=size if sizes else None)

    unpool = jl.MaxUnpool(sizes=size) if sizes else jl.MaxUnpool(window, **ours)
    check(
        Both(),
        jl.serial(jl.MaxPool(window, indices=True, **ours), unpool),
        (2, *size, 3),
        around=channels_first,
    )


def test_pool_of_a_fraction():
    """With PyTorch's samples, which have the last axis first for images, and last for volumes."""
    for rank, order, ratio in ((2, [1, 0], 0.7), (3, [0, 1, 2], 0.6)):
        shape = (2, *(9, 8, 7)[:rank], 3)
        samples = np.random.default_rng(rank).random((2, 3, rank))
        sizes = tuple(int(n * ratio) for n in shape[1:-1])

        class Fractional(nn.Module):
            def forward(self, x, rank=rank, sizes=sizes, samples=samples, order=order):
                pool = getattr(nn.functional, f"fractional_max_pool{rank}d")
                theirs = torch.tensor(samples[..., order])
                return pool(x, 2, output_size=sizes, _random_samples=theirs)

        def ours(x, rank=rank, sizes=sizes, samples=samples):
            given = {"window_shape": (2,) * rank, "sizes": sizes}
            return jl.core.fractional_max_pool(x, jnp.asarray(samples), **given)

        check(Fractional(), jl.serial(ours), shape, around=channels_first)


@pytest.mark.parametrize("strides", [1, 2, (2, 1)])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_blur_pool(size, strides):
    """Zhang's module: reflected, and convolved with the outer product of the coefficients."""
    line = torch.tensor([float(math.comb(size - 1, i)) for i in range(size)], dtype=torch.float64)
    kernel = (line[:, None] * line[None] / line.sum() ** 2).expand(3, 1, size, size)

    class Blur(nn.Module):
        def forward(self, x):
            low, high = int((size - 1) / 2), math.ceil((size - 1) / 2)
            x = nn.functional.pad(x, (low, high, low, high), mode="reflect")
            return nn.functional.conv2d(x, kernel, stride=strides, groups=3)

    check(Blur(), jl.BlurPool(size, strides=strides), (2, 7, 6, 3), around=channels_first)


@pytest.mark.parametrize("hidden", [None, 4])
@pytest.mark.parametrize("queries", [None, 2])
def test_attention_pool(queries, hidden):
    class Pool(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Linear(3, hidden, **F64) if hidden else nn.Identity()
            self.query = nn.Linear(hidden or 3, queries or 1, bias=False, **F64)

        def forward(self, x):
            flat = x.flatten(1, 2)
            h = torch.tanh(self.kernel(flat)) if hidden else flat
            y = torch.softmax(self.query(h), 1).transpose(1, 2) @ flat
            return y if queries else y[:, 0]

    def conversion(w):
        own = {"query": w["query.weight"].T}
        return own | ({"kernel": w["kernel.weight"].T, "bias": w["kernel.bias"]} if hidden else {})

    layer = jl.AttentionPool(queries, hidden_features=hidden)
    check(Pool(), layer, (2, 5, 4, 3), conversion)


class Function(nn.Module):
    """A module of a function of channels that come last."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_other_global_pools(rank):
    axes, shape = tuple(range(1, rank + 1)), (2, *SIZE[:rank], 3)
    check(Function(lambda x: x.sum(axes)), jl.GlobalSumPool(), shape)
    check(Function(lambda x: x.amin(axes)), jl.GlobalMinPool(), shape)


def test_pool_of_products():
    def theirs(x):
        x = nn.functional.pad(x, (0, 0, 1, 1), value=1.0)
        return x.unfold(1, 2, 2).unfold(2, 3, 1).flatten(4).prod(-1)

    layer = jl.Pool(jnp.multiply, 1, (2, 3), strides=(2, 1), padding=(0, 1))
    check(Function(theirs), layer, (2, 6, 5, 3))


def test_a_fraction_with_a_key():
    """The layer's own draw, which PyTorch is given."""
    key, x = jax.random.key(0), np.random.default_rng(0).normal(size=(2, 9, 8, 3))
    samples = np.asarray(jax.random.uniform(key, (2, 3, 2), jnp.float64))
    for train, given in ((True, samples), (False, np.full_like(samples, 0.5))):
        layer = jl.FractionalMaxPool((2, 3), sizes=(5, 4))
        y, _ = layer.apply({}, {}, jnp.asarray(x), key=key, train=train)
        wanted = nn.functional.fractional_max_pool2d(
            torch.tensor(x).movedim(-1, 1),
            (2, 3),
            output_size=(5, 4),
            _random_samples=torch.tensor(given[..., ::-1].copy()),
        )
        np.testing.assert_allclose(y, wanted.movedim(1, -1), rtol=1e-12)
