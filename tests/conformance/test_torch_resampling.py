"""Resampling against PyTorch's, in float64: values and gradients over a grid of options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert

import jlayers as jl

torch = pytest.importorskip("torch")
nn = torch.nn

from oracles.against_torch import channels_first, check  # noqa: E402

pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


RESIZE = {
    "nearest": ("nearest", {"coordinates": "asymmetric"}, {}),
    "nearest-exact": ("nearest", {}, {}),
    "bilinear": ("linear", {}, {}),
    "bilinear, corners": ("linear", {"coordinates": "align_corners"}, {"align_corners": True}),
    "bicubic": ("cubic", {}, {}),
    "bicubic, corners": ("cubic", {"coordinates": "align_corners"}, {"align_corners": True}),
    "bilinear, antialias": ("linear", {"antialias": True}, {"antialias": True}),
    "area": ("area", {}, {}),
    "bicubic, antialias": (
        "cubic",
        {"antialias": True, "coefficient": -0.5},
        {"antialias": True},
    ),
}


@pytest.mark.parametrize("sizes", [(10, 12), (3, 4), (7, 13), (1, 5), (15, 2)], ids=str)
@pytest.mark.parametrize("name", RESIZE)
def test_resize(name, sizes):
    method, ours, theirs = RESIZE[name]

    class Interpolate(nn.Module):
        def forward(self, x):
            mode = name.partition(",")[0]
            return nn.functional.interpolate(x, sizes, mode=mode, **theirs)

    check(
        Interpolate(), jl.Resize(sizes, method=method, **ours), (2, 5, 6, 3), around=channels_first
    )


FACTORS = {name: options for name, options in RESIZE.items() if "antialias" not in name}


# Each changes the size: where it does not, PyTorch's gradients are those of the identity, and its
# values mostly not.
@pytest.mark.parametrize("factor", [2, 1.7, (0.6, 2.3), (0.5, 1.25)], ids=str)
@pytest.mark.parametrize("name", FACTORS)
def test_resize_by_factors(name, factor):
    """Outputs are 1 / factor apart, as without ``recompute_scale_factor``."""
    method, ours, theirs = RESIZE[name]

    class Interpolate(nn.Module):
        def forward(self, x):
            mode = name.partition(",")[0]
            return nn.functional.interpolate(x, scale_factor=factor, mode=mode, **theirs)

    layer = jl.Resize(factor=factor, method=method, **ours)
    check(Interpolate(), layer, (2, 5, 6, 3), around=channels_first)


@pytest.mark.parametrize("sizes", [(9, 3, 5), (2, 12, 4)], ids=str)
@pytest.mark.parametrize(
    ("rank", "mode"), [(1, "linear"), (3, "trilinear"), (1, "area"), (3, "area")]
)
@pytest.mark.parametrize("corners", [False, True])
def test_resize_of_other_ranks(rank, mode, sizes, corners):
    if mode == "area" and corners:
        return
    theirs = {} if mode == "area" else {"align_corners": corners}
    coordinates = "align_corners" if corners else "half_pixel"

    class Interpolate(nn.Module):
        def forward(self, x):
            return nn.functional.interpolate(x, sizes[:rank], mode=mode, **theirs)

    method = "area" if mode == "area" else "linear"
    layer = jl.Resize(sizes[:rank], method=method, coordinates=coordinates)
    check(Interpolate(), layer, (2, *(5, 6, 4)[:rank], 3), around=channels_first)


class Sampled(nn.Module):
    """``grid_sample`` of an image and a grid in one array, which PyTorch's module has as two."""

    def __init__(self, split, **options):
        super().__init__()
        self.split, self.options = split, options

    def forward(self, x):
        image, grid = self.split(x)
        y = nn.functional.grid_sample(image.movedim(-1, 1), grid, **self.options)
        return y.movedim(1, -1)


MODES = {"zeros": "constant", "border": "replicate", "reflection": "reflect"}


@pytest.mark.parametrize("corners", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize("padding", MODES)
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("rank", [2, 3])
def test_grid_sample(rank, mode, padding, corners):
    if (rank, mode) == (3, "bicubic"):  # PyTorch has none
        return
    image, grid = (2, *(5, 4, 3)[:rank], 3), (2, *(4, 3, 2)[:rank], rank)
    ends = np.prod(image), np.prod(image) + np.prod(grid)

    def split(x):
        # Places up to three times as far as the edges.
        return x[: ends[0]].reshape(image), 1.5 * x[ends[0] : ends[1]].reshape(grid)

    layer = jl.GridSample(
        method={"nearest": "nearest", "bilinear": "linear", "bicubic": "cubic"}[mode],
        mode=MODES[padding],
        coordinates="align_corners" if corners else "half_pixel",
    )
    check(
        Sampled(split, mode=mode, padding_mode=padding, align_corners=corners),
        jl.serial(split, grid_sample=layer),
        convert.draw_input((ends[1],), "float64"),
    )


@pytest.mark.parametrize("corners", [False, True], ids=["edges", "corners"])
@pytest.mark.filterwarnings("ignore:Since version 1.3.0")
@pytest.mark.parametrize("sizes", [(4, 3), (1, 5), (2, 3, 4)], ids=str)
def test_affine_grid(sizes, corners):
    rank = len(sizes)
    coordinates = "align_corners" if corners else "half_pixel"

    class Grid(nn.Module):
        def forward(self, theta):
            return nn.functional.affine_grid(theta, (2, 3, *sizes), align_corners=corners)

    check(
        Grid(),
        jl.serial(lambda theta: jl.core.affine_grid(theta, sizes, coordinates=coordinates)),
        (2, rank, rank + 1),
    )


def test_places_without_a_number():
    """PyTorch takes NaN for -1; here it stays. Infinity is outside of the image."""
    grid = jnp.array([jnp.nan, jnp.inf, -jnp.inf, 0.0]).reshape(1, 4, 1)
    y, _ = jl.GridSample().apply({}, {}, (jnp.ones((1, 3, 1)), grid))
    np.testing.assert_array_equal(y.ravel(), [np.nan, 0, 0, 1])
