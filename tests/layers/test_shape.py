"""Padding, cropping, and values between channels and pixels: round trips and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl

X = np.random.default_rng(0).normal(size=(2, 6, 4, 8)).astype("float32")


def of(layer, x=X):
    return layer.apply({}, {}, x)[0]


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_a_crop_undoes_a_pad(mode):
    edges = ((1, 2), (0, 3))
    np.testing.assert_array_equal(of(jl.Crop(edges), of(jl.Pad(edges, mode=mode))), X)


def test_pixels_come_back():
    np.testing.assert_array_equal(of(jl.PixelShuffle(2), of(jl.PixelUnshuffle(2))), X)
    volume = np.arange(2 * 3 * 4 * 2 * 8).reshape(2, 3, 4, 2, 8)
    shuffled = of(jl.PixelShuffle(2), volume)
    np.testing.assert_array_equal(of(jl.PixelUnshuffle(2), shuffled), volume)
    # As the docstring says, for one channel of three axes.
    np.testing.assert_array_equal(shuffled[:, 1::2, 0::2, 1::2, 0], volume[..., 5])


WRONG = {
    "unknown mode 'zeros'": lambda: jl.Pad(1, mode="zeros"),
    "padding must be an int of at least 0, got -1": lambda: jl.Pad(-1),
    "'reflect' padding (4, 4) is larger than an axis of size 4": lambda: of(
        jl.Pad(4, mode="reflect")
    ),
    "'circular' padding (5, 5) is larger than an axis of size 4": lambda: of(
        jl.Pad(5, mode="circular")
    ),
    "cropping (3, 3) is larger than an axis of size 4": lambda: of(jl.Crop(3)),
    "takes an array of rank 3, got rank 4": lambda: of(jl.Crop(((1, 1),))),
    "((1, 2),) for before and after of the only axis": lambda: of(jl.Pad((1, 2)), X[:, 0]),
    "3 does not divide the channels of the input": lambda: of(jl.ChannelShuffle(3)),
    "9 does not divide the channels of the input": lambda: of(jl.PixelShuffle(3)),
    "(3, 3) does not divide the spatial axes of the input": lambda: of(jl.PixelUnshuffle(3)),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_does_not_fit_is_an_error(text):
    with pytest.raises(jl.LayerError) as caught:
        WRONG[text]()
    assert text in str(caught.value)


def test_time_is_not_padded_behind_a_mask():
    x = jl.Sequence(jnp.asarray(X), jnp.ones((2, 6), bool))
    assert of(jl.Pad(((0, 0), (1, 1))), x).values.shape == (2, 6, 6, 8)
    for layer in (jl.Pad(1), jl.Crop(1)):
        with pytest.raises(jl.LayerError):
            of(layer, x)
