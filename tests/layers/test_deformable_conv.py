"""DeformableConv against loops written from the papers, and what it refuses."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert

import jlayers as jl


def pixel(image, place):
    """The image (*spatial, channels) at a place between its pixels, zero beyond its edges."""
    total = np.zeros(image.shape[-1])
    low = np.floor(place).astype(int)
    for corner in itertools.product((0, 1), repeat=len(place)):
        at = low + corner
        if np.all(at >= 0) and np.all(at < image.shape[:-1]):
            total += np.prod(1 - np.abs(place - at)) * image[tuple(at)]
    return total


def loops(x, offsets, modulation, kernel, strides, low, dilation):
    *size, _, features = kernel.shape
    rank, elements = len(size), int(np.prod(size))
    out = offsets.shape[1:-1]
    parts = modulation.shape[-1] // elements
    y = np.zeros((len(x), *out, features))
    for place in itertools.product(range(len(x)), *map(range, out)):
        row, *p = place
        own = offsets[place].reshape(parts, elements, rank)
        for k, element in enumerate(itertools.product(*map(range, size))):
            start = np.array(strides) * p - low + np.array(dilation) * element
            for part, channels in enumerate(np.split(np.arange(x.shape[-1]), parts)):
                value = pixel(x[row][..., channels], start + own[part, k])
                value = value * modulation[place].reshape(parts, elements)[part, k]
                y[place] += value @ kernel[element][channels]
    return y


@pytest.mark.parametrize(
    ("sizes", "kernel_size", "strides", "parts"),
    [((6,), (3,), (2,), 1), ((5, 4), (2, 3), (1, 2), 2), ((3, 4, 3), (2, 1, 2), (1, 2, 1), 1)],
    ids=str,
)
@pytest.mark.oracle("a loop")
def test_loops(sizes, kernel_size, strides, parts):
    rank, elements = len(sizes), int(np.prod(kernel_size))
    padding, dilation = ((1, 2),) * rank, (2,) + (1,) * (rank - 1)
    layer = jl.DeformableConv(
        3, kernel_size, strides=strides, padding=padding, dilation=dilation, bias=False
    )
    options = {"strides": strides, "padding": padding, "dilation": dilation}
    out = jl.out_spec(jl.Conv(3, kernel_size, **options), jl.spec((2, *sizes, 4))).shape[1:-1]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *sizes, 4))
    offsets = 1.5 * rng.standard_normal((2, *out, parts * elements * rank))
    modulation = rng.random((2, *out, parts * elements))
    kernel = rng.standard_normal((*kernel_size, 4, 3))
    with jax.enable_x64(True):
        got, _ = layer.apply({"kernel": kernel}, {}, (x, offsets, modulation))
    wanted = loops(x, offsets, modulation, kernel, strides, 1, dilation)
    np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10)


def test_without_offsets_it_is_a_convolution():
    x = convert.draw_input((2, 6, 5, 4))
    options = {"padding": "SAME", "strides": 2, "groups": 2}
    plain, deformable = jl.Conv(6, 3, **options), jl.DeformableConv(6, 3, **options)
    params, _ = plain.init(jax.random.key(0), x)
    wanted, _ = plain.apply(params, {}, x)
    got, _ = deformable.apply(params, {}, (x, np.zeros((2, 3, 3, 18), np.float32)))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


IMAGE = jl.spec((2, 6, 5, 4))


@pytest.mark.parametrize(
    ("x", "texts"),
    [
        (IMAGE, ["takes (image, offsets) or (image, offsets, modulation)", "branch(serial()"]),
        (
            (IMAGE, jl.spec((2, 6, 5, 9))),
            ["the offsets must have the sizes of the output", "(2, 6, 5, groups of channels * 18)"],
        ),
        ((IMAGE, jl.spec((2, 4, 3, 18))), ["the offsets must have", "float32[2, 4, 3, 18]"]),
        ((IMAGE, jl.spec((2, 6, 5, 54))), ["the offsets must have"]),
        (
            (IMAGE, jl.spec((2, 6, 5, 18)), jl.spec((2, 6, 5, 18))),
            ["the modulation must have", "groups of channels * 9"],
        ),
    ],
    ids=["image", "channels", "sizes", "groups", "modulation"],
)
def test_refusals(x, texts):
    with pytest.raises(jl.LayerError) as caught:
        jl.DeformableConv(8, 3, padding="SAME").init(jax.random.key(0), x)
    assert all(text in str(caught.value) for text in texts), caught.value


def test_refusals_of_groups():
    with pytest.raises(jl.LayerError, match="groups 3 do not divide the 8 features"):
        jl.DeformableConv(8, 3, groups=3)
    with pytest.raises(jl.LayerError, match="groups 8 do not divide the 4 channels of the input"):
        jl.DeformableConv(8, 3, groups=8).init(jax.random.key(0), (IMAGE, jl.spec((2, 4, 3, 18))))


@pytest.mark.parametrize(
    ("layer", "x", "text"),
    [
        (jl.Unfold(9), IMAGE, "Unfold: the dilated window (9, 9) is larger than the input (6, 5)"),
        (jl.Unfold((2,)), IMAGE, "Unfold: takes an array of rank 3, got rank 4"),
        (
            jl.Fold(3),
            IMAGE,
            "the 4 channels are not a multiple of the 9 elements of a window (3, 3)",
        ),
        (jl.Fold(2, sizes=(6, 6)), IMAGE, "an image of sizes (6, 6) has (5, 5) patches"),
    ],
)
def test_refusals_of_patches(layer, x, text):
    with pytest.raises(jl.LayerError) as caught:
        jl.out_spec(layer, x)
    assert text in str(caught.value)


def test_an_offset_that_is_nan():
    """NaN at its output, in the value and in the gradients, and at no other."""
    layer = jl.DeformableConv(3, 2)
    image = jax.random.normal(jax.random.key(0), (1, 4, 5, 2))
    offsets = jax.random.normal(jax.random.key(1), (1, 3, 4, 8))
    params, _ = layer.init(jax.random.key(2), (image, offsets))

    @jax.jit
    def read(offsets):
        def total(params, offsets):
            y, _ = layer.apply(params, {}, (image, offsets))
            return y.sum(), y

        return jax.grad(total, (0, 1), has_aux=True)(params, offsets)

    _, clean = read(offsets)
    (of_params, of_offsets), y = read(offsets.at[0, 1, 2, 3].set(jnp.nan))
    lost = np.zeros((3, 4), bool)
    lost[1, 2] = True
    np.testing.assert_array_equal(np.isnan(y[0]).all(-1), lost)
    np.testing.assert_allclose(y[0][~lost], clean[0][~lost], rtol=1e-5)
    assert np.isnan(of_params["kernel"]).any()
    np.testing.assert_array_equal(np.isnan(of_offsets[0]).any(-1), lost)
