"""Pools against PyTorch's, in float64: values and gradients over a grid of options."""

import jax
import pytest
from oracles import convert

import jlayers as jl

torch = pytest.importorskip("torch")
nn = torch.nn

from oracles.against_torch import channels_first, check  # noqa: E402

pytestmark = pytest.mark.conformance

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
