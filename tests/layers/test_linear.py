"""Linear layers beside Dense: formulas in NumPy, initial scales, and what is refused."""

import pathlib
import re

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert

import jlayers as jl


def initialized(layer, *shapes):
    x = tuple(jl.spec(shape) for shape in shapes)
    return layer.init(jax.random.key(0), x if len(x) > 1 else x[0])[0]


@pytest.mark.oracle("a loop")
def test_affine():
    rng = np.random.default_rng(0)
    x, scale, bias = (rng.normal(size=size).astype("float32") for size in ((3, 2, 4), 4, 4))
    both, _ = jl.Affine().apply({"scale": scale, "bias": bias}, {}, x)
    np.testing.assert_allclose(both, x * scale + bias, rtol=1e-6)
    alone, _ = jl.Affine(bias=False).apply({"scale": scale}, {}, x)
    np.testing.assert_allclose(alone, x * scale, rtol=1e-6)
    shifted, _ = jl.Affine(scale=False).apply({"bias": bias}, {}, x)
    np.testing.assert_allclose(shifted, x + bias, rtol=1e-6)


@pytest.mark.oracle("Haiku")
@pytest.mark.parametrize("dims", [(-1,), (-2, -1), (1, 3), ()], ids=str)
def test_bias_against_haiku(dims):
    module = hk.without_apply_rng(hk.transform(lambda x: hk.Bias(bias_dims=dims)(x)))
    x = convert.draw_input((2, 3, 4, 5))
    with convert.lenient():
        weights = convert.draw(module.init(jax.random.key(0), x))
    layer = jl.Affine(scale=False, feature_axes=dims)
    shape = [x.shape[axis] for axis in sorted(axis % 4 for axis in dims)]

    def ours(weights, x):
        return layer.apply({"bias": weights["bias"]["b"].reshape(shape)}, {}, x)[0]

    convert.compare(module.apply, ours, weights, x)


@pytest.mark.oracle("a loop")
def test_affine_of_other_axes():
    rng = np.random.default_rng(0)
    x, scale = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 4))
    y, _ = jl.Affine(feature_axes=(-1, 0), bias=False).apply({"scale": scale}, {}, x)
    np.testing.assert_allclose(y, x * scale[:, None], rtol=1e-6)
    y, _ = jl.Affine(feature_axes=(), scale=False).apply({"bias": np.float32(3)}, {}, x)
    np.testing.assert_allclose(y, x + 3, rtol=1e-6)


@pytest.mark.oracle("a loop")
def test_snake():
    rng = np.random.default_rng(0)
    x, a = rng.normal(size=(5, 3)).astype("float32"), np.array([0.5, 2.0, 0.0], "float32")
    y, _ = jl.Snake().apply({"frequency": a}, {}, x)
    expected = x[:, :2] + np.sin(a[:2] * x[:, :2]) ** 2 / a[:2]
    np.testing.assert_allclose(y[:, :2], expected, rtol=1e-5)
    # The limit of a frequency of 0, with a finite gradient.
    np.testing.assert_allclose(y[:, 2], x[:, 2])
    slope = jax.grad(lambda a: jl.Snake().apply({"frequency": a}, {}, x)[0].sum())(jnp.asarray(a))
    assert jnp.isfinite(slope).all()


@pytest.mark.parametrize(
    ("layer", "shapes", "fans"),
    [
        (jl.Dense((8, 64)), [(2, 128)], 128 + 512),
        (jl.Dense(64, axis=(1, 2)), [(2, 16, 32)], 512 + 64),
        (jl.Einsum("...d,dhk->...hk", h=8, k=64), [(2, 128)], 128 + 512),
        (jl.Einsum("...hd,hdk->...hk", k=64), [(2, 8, 64)], 64 + 64),
        (jl.Bilinear(64), [(2, 16), (2, 32)], 512 + 64),
    ],
    ids=lambda value: repr(value) if isinstance(value, jl.Layer) else "",
)
def test_the_initial_scale_is_that_of_glorot(layer, shapes, fans):
    kernel = np.asarray(initialized(layer, *shapes)["kernel"])
    limit = np.sqrt(6 / fans)
    assert 0.99 * limit < abs(kernel).max() <= limit


PAGE = pathlib.Path(__file__).parents[2] / "docs" / "library" / "linear.md"
LINES = re.findall(
    r"^\| .* \| `(jl\.[^`]*|jax\.nn\.[^`]*)` \|$", PAGE.read_text().split("## Ids")[0], re.M
)


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_docs_in_place_of_a_layer(line):
    layer = jl.lift(
        eval(line, {"jl": jl, "jax": jax, "jnp": jnp, "n": 6, "rank": 2, "mask": np.ones((6, 6))})
    )
    x = jl.spec((2, 5, 6))
    layer.init(jax.random.key(0), x)
    assert jl.out_spec(layer, x).shape == (2, 5, 3 if line == "jax.nn.glu" else 6)


def test_the_lines_of_the_docs_are_read():
    assert len(LINES) >= 10


STEPS = jl.spec((2, 5, 4))
WRONG = {
    "there is no axis [3]": (jl.Dense(3, axis=3), STEPS),
    "axes [1, -2] name an axis twice": (jl.Dense(3, axis=(1, -2)), STEPS),
    "the size of 'k' is not known": (jl.Einsum("...d,dk->...k"), STEPS),
    "takes a pair": (jl.Bilinear(3), STEPS),
    "the two inputs differ in their leading axes or their dtype": (
        jl.Bilinear(3),
        (STEPS, jl.spec((2, 4, 4))),
    ),
    "takes an array of rank 3, got rank 2": (jl.Einsum("btd,dk->btk", k=3), jl.spec((5, 4))),
    "takes floating numbers, got int32": (jl.Affine(), jl.spec((2, 5), jnp.int32)),
}


@pytest.mark.parametrize("text", WRONG)
def test_an_input_that_does_not_fit_is_an_error(text):
    layer, x = WRONG[text]
    with pytest.raises(jl.LayerError) as caught:
        layer.init(jax.random.key(0), x)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: jl.Affine(scale=False, bias=False), "has neither scale nor bias"),
        (lambda: jl.Dense(3, axis=(1, 1)), r"axis must be an int or a tuple of different ints"),
        (lambda: jl.RReLU(0.5, 0.1), "RReLU: lower must be at most upper, got 0.5 and 0.1"),
        (lambda: jl.Einsum("ij,jk"), "equation must be of the form 'x,kernel->y', got 'ij,jk'"),
        (lambda: jl.Einsum("ij,jk->ik", k=2, bias_axes="j"), "bias_axes has 'j', which y has not"),
        (lambda: jl.Einsum("ij,jk->ik", j=2, k=2), "a size is given for 'j'"),
        (lambda: jl.Einsum("ij,jk->ik", output_shape=3), "hint:     sizes of the kernel are given"),
        (lambda: jl.Einsum("ij,jk->ik", k=0), "k must be a positive int, got 0"),
    ],
)
def test_arguments_that_make_no_sense_are_errors(build, text):
    with pytest.raises(jl.LayerError, match=text):
        build()


def test_a_dense_layer_that_mixes_steps_takes_no_mask():
    x = jl.Sequence(jnp.ones((2, 5, 4)), jnp.ones((2, 5), bool))
    layer = jl.Dense(3, axis=1)
    params, state = layer.init(jax.random.key(0), jl.spec((2, 5, 4)))
    with pytest.raises(jl.LayerError):
        layer.apply(params, state, x)
    # Features into heads keep the steps, and the mask.
    heads = jl.Dense((2, 3))
    params, state = heads.init(jax.random.key(0), jl.spec((2, 5, 4)))
    y, _ = heads.apply(params, state, x)
    assert y.values.shape == (2, 5, 2, 3)
