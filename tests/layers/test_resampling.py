"""Images in other sizes: against jax.image, fractions, and what does not fit."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from tables.tiers import sample

import jlayers as jl

X = jax.random.normal(jax.random.key(0), (2, 6, 5, 3))
IMAGE = jl.spec((2, 6, 5, 3))
SYMBOLIC = jax.ShapeDtypeStruct((2, *export.symbolic_shape("n"), 4), jnp.float32)


@pytest.mark.oracle("JAX")
@pytest.mark.parametrize("sizes", sample([(12, 4), (3, 15), (7, 5)]), ids=str)
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("method", ["lanczos3", "lanczos5", "linear", "cubic"])
def test_resize_as_jax_does(method, antialias, sizes):
    cubic = {"coefficient": -0.5, "exclude_outside": True} if method == "cubic" else {}
    layer = jl.Resize(sizes, method=method, antialias=antialias, **cubic)

    def ours(x):
        y = layer.apply({}, {}, x)[0]
        return (y**2).sum(), y

    def theirs(x):
        y = jax.image.resize(x, (2, *sizes, 3), method, antialias=antialias)
        return (y**2).sum(), y

    got, wanted = (jax.jit(jax.grad(f, has_aux=True))(X) for f in (ours, theirs))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_area_is_the_adaptive_pool():
    y, _ = jl.Resize((4, 7), method="area").apply({}, {}, X)
    np.testing.assert_array_equal(y, jl.AdaptiveAvgPool((4, 7)).apply({}, {}, X)[0])


def _nearest(places, rounding):
    """ONNX's words, by its specification: which pixel each place is given."""
    return {
        "floor": np.floor(places),
        "ceil": np.ceil(places),
        "half_up": np.floor(places + 0.5),
        "half_down": np.ceil(places - 0.5),
    }[rounding]


@pytest.mark.parametrize("sizes", sample([4, 8, 3, 7], 1, 2))
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("rounding", ["floor", "ceil", "half_up", "half_down"])
def test_nearest_by_rounding(rounding, coordinates, sizes):
    x = jnp.arange(4.0).reshape(1, 4, 1)
    i = np.arange(sizes)
    places = {
        "half_pixel": (i + 0.5) * 4 / sizes - 0.5,
        "asymmetric": i * 4 / sizes,
        "align_corners": i * 3 / (sizes - 1),
    }[coordinates]
    layer = jl.Resize(sizes, coordinates=coordinates, rounding=rounding)
    wanted = np.clip(_nearest(places, rounding), 0, 3)
    np.testing.assert_array_equal(np.ravel(jax.jit(layer.apply)({}, {}, x)[0]), wanted)


@pytest.mark.parametrize("factor", [2, 0.5])
def test_edges_that_are_repeated(factor):
    """As of an image that is padded with its outermost pixels, and cut off again."""
    options = {"method": "cubic", "antialias": True, "exclude_outside": False}
    x = jax.random.normal(jax.random.key(0), (1, 12, 1))
    apply = jax.jit(jl.Resize(factor=factor, **options).apply)
    y, _ = apply({}, {}, x)
    padded = np.pad(x, ((0, 0), (8, 8), (0, 0)), "edge")
    wide, _ = apply({}, {}, padded)
    cut = int(8 * factor)
    np.testing.assert_allclose(y, wide[:, cut:-cut], rtol=1e-5, atol=1e-6)


def test_a_factor_keeps_its_distance():
    """Outputs are 1 / factor apart, where ``sizes`` spreads them over the whole input."""
    x = jnp.arange(10.0).reshape(1, 10, 1)
    y, _ = jl.Resize(factor=0.35, method="linear").apply({}, {}, x)
    np.testing.assert_allclose(y.ravel(), (np.arange(3) + 0.5) / 0.35 - 0.5, rtol=1e-6)
    spread, _ = jl.Resize(3, method="linear").apply({}, {}, x)
    np.testing.assert_allclose(spread.ravel(), (np.arange(3) + 0.5) * 10 / 3 - 0.5, rtol=1e-6)
    # The same size, but another distance, is not the identity.
    y, _ = jl.Resize(factor=1.05).apply({}, {}, x)
    assert y.ravel().tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    y, _ = jl.Resize(factor=1.05, coordinates="asymmetric").apply({}, {}, x)
    assert y.ravel().tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert jl.out_spec(jl.Resize(factor=(2.0, 1)), jl.spec((2, 3, 4, 1))).shape == (2, 6, 4, 1)
    assert str(jl.out_spec(jl.Resize(factor=2.0), SYMBOLIC).shape[1]) == "2*n"


def _between(image, y, x):
    """Bilinear, in loops as in Detectron2's kernel: zero more than a pixel outside."""
    height, width = image.shape[:2]
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(image.shape[2])
    y, x = max(y, 0), max(x, 0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = (y - top if bottom > top else 0), (x - left if right > left else 0)
    return (
        image[top, left] * (1 - dy) * (1 - dx)
        + image[top, right] * (1 - dy) * dx
        + image[bottom, left] * dy * (1 - dx)
        + image[bottom, right] * dy * dx
    )


def _align(image, box, sizes, samples, scale, aligned):
    x1, y1, x2, y2 = (v * scale - (0.5 if aligned else 0) for v in box)
    height, width = (v if aligned else max(v, 1) for v in (y2 - y1, x2 - x1))
    out = np.zeros((*sizes, image.shape[2]))
    for i, j in np.ndindex(*sizes):
        for a, b in np.ndindex(*samples):
            y = y1 + (i + (a + 0.5) / samples[0]) * height / sizes[0]
            x = x1 + (j + (b + 0.5) / samples[1]) * width / sizes[1]
            out[i, j] += _between(image, y, x) / np.prod(samples)
    return out


@pytest.mark.oracle("a loop")
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [(2, 2), (1, 3)], ids=str)
def test_roi_align(samples, aligned):
    """Boxes inside, across the edges, outside and without a size."""
    boxes = np.array(
        [
            [[1, 2, 9, 8], [-3, -2, 5, 6], [8.5, 3, 13, 30]],
            [[40, 1, 50, 3], [3, 3, 3, 3], [2.2, 1.4, 2.6, 1.9]],
        ]
    )
    layer = jl.RoIAlign((3, 2), samples=samples, scale=0.5, aligned=aligned)
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(2, 6, 5, 3))
        y = np.asarray(jax.jit(layer.apply)({}, {}, (jnp.asarray(x), jnp.asarray(boxes)))[0])
    for image, row, got in zip(x, boxes, y, strict=True):
        for box, cells in zip(row, got, strict=True):
            wanted = _align(image, box, (3, 2), samples, 0.5, aligned)
            np.testing.assert_allclose(cells, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.oracle("ONNX Runtime")
@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_as_onnx_runtime_does(aligned):
    """What version 1.32.0 made of random images and boxes, stored as (batch, boxes, 3, 2, 3)."""
    stored = np.load(Path(__file__).parent.parent / "data" / "onnx_roi_align.npz")
    layer = jl.RoIAlign((3, 2), scale=0.5, aligned=aligned)
    y, _ = jax.jit(layer.apply)({}, {}, (stored["x"], stored["boxes"]))
    wanted = stored["aligned" if aligned else "unaligned"]
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int32, bool])
def test_labels_are_moved_as_they_are(dtype):
    x = jax.random.randint(jax.random.key(0), (2, 6, 5, 3), -(2**30), 2**30).astype(dtype)
    y, _ = jl.Resize((4, 10)).apply({}, {}, x)
    assert y.dtype == dtype
    rows, columns = np.floor((np.arange(4) + 0.5) * 1.5).astype(int), np.arange(10) // 2
    np.testing.assert_array_equal(y, x[:, rows][:, :, columns])


WRONG = {
    "factor 0.1 leaves no pixel": lambda: jl.out_spec(jl.Resize(factor=0.1), jl.spec((2, 6, 1))),
    "factor 1.5 of an axis without a known size": lambda: jl.out_spec(
        jl.Resize(factor=1.5), SYMBOLIC
    ),
    "sizes 3 of an axis without a known size": lambda: jl.out_spec(jl.Resize(3), SYMBOLIC),
    "factor 2 of an axis without a known size": lambda: jl.out_spec(
        jl.Resize(factor=2, coordinates="align_corners"), SYMBOLIC
    ),
    "takes floating numbers, got int8": lambda: jl.out_spec(
        jl.Resize(3, method="linear"), jl.spec((2, 6, 1), jnp.int8)
    ),
    "factor must be a number above 0, got 0": lambda: jl.Resize(factor=0),
    "takes an array of rank 4, got rank 3": lambda: jl.out_spec(
        jl.Resize(factor=(2, 2)), jl.spec((2, 6, 1))
    ),
    "unknown method 'hamming'": lambda: jl.Resize(2, method="hamming"),
    "takes sizes or factor": jl.Resize,
    "unknown rounding 'up'": lambda: jl.Resize(2, rounding="up"),
    "rounding='half_down'": lambda: jl.Resize(2, rounding="round_prefer_floor"),
    "unknown mode 'zeros'": lambda: jl.GridSample(mode="zeros"),
    "unknown method 'bilinear'": lambda: jl.GridSample(method="bilinear"),
    "unknown coordinates 'asymmetric'": lambda: jl.GridSample(coordinates="asymmetric"),
    "method='linear'": lambda: jl.Resize(2, method="trilinear"),
    "mode='replicate'": lambda: jl.GridSample(mode="border"),
    "takes a tuple (image, grid)": lambda: jl.out_spec(jl.GridSample(), IMAGE),
    "the grid does not fit the image": lambda: jl.out_spec(
        jl.GridSample(), (IMAGE, jl.spec((2, 4, 3)))
    ),
    "takes floating numbers, got int32": lambda: jl.out_spec(
        jl.GridSample(), (jl.spec(IMAGE.shape, jnp.int32), jl.spec((2, 4, 2)))
    ),
    "takes a tuple (image, boxes)": lambda: jl.out_spec(jl.RoIAlign(7), (IMAGE,)),
    "the boxes do not fit the image": lambda: jl.out_spec(jl.RoIAlign(7), (IMAGE, jl.spec((5, 4)))),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_does_not_fit_is_an_error(text):
    with pytest.raises(jl.LayerError) as caught:
        WRONG[text]()
    assert text in str(caught.value)


@pytest.mark.parametrize("method", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("mode", ["constant", "replicate", "reflect"])
def test_a_place_that_is_nan(method, mode):
    """NaN there, in the value and in the gradient, and nowhere else."""
    x = jax.random.normal(jax.random.key(0), (1, 4, 5, 2))
    grid = jnp.linspace(-0.8, 0.8, 12).reshape(1, 6, 2)
    layer = jl.GridSample(method=method, mode=mode)
    read = jax.jit(jax.value_and_grad(lambda x, g: _read(layer, x, g), (0, 1), has_aux=True))
    (_, clean), _ = read(x, grid)
    (_, y), (of_x, of_grid) = read(x, grid.at[0, 2, 1].set(jnp.nan))
    lost = np.arange(6) == 2
    np.testing.assert_array_equal(np.isnan(y).all(-1)[0], lost)
    np.testing.assert_allclose(np.asarray(y)[0, ~lost], np.asarray(clean)[0, ~lost], rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(of_grid).any(-1)[0], lost)
    assert np.isnan(of_x).any()
    (_, far), _ = read(x, grid.at[0, 2, 1].set(9.0))
    assert np.isfinite(far).all()


def _read(layer, x, grid):
    y, _ = layer.apply({}, {}, (x, grid))
    return y.sum(), y
