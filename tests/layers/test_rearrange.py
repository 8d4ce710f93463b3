"""Axes in another order, split and joined: against NumPy, Keras, and functions in one line."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")
pytest.importorskip("einops")

X = np.random.default_rng(0).normal(size=(2, 4, 6, 8)).astype("float32")


def of(layer, x=X):
    return layer.apply({}, {}, x)[0]


def _patches(x):
    y = np.zeros((2, 6, 32), x.dtype)
    for b, i, j, p, q, c in np.ndindex(2, 2, 3, 2, 2, 8):
        y[b, i * 3 + j, (p * 2 + q) * 8 + c] = x[b, 2 * i + p, 2 * j + q, c]
    return y


PATTERNS = {
    "b h w c -> b c h w": ({}, lambda x: np.transpose(x, (0, 3, 1, 2))),
    "b ... c -> b c ...": ({}, lambda x: np.moveaxis(x, -1, 1)),
    "b h w c -> b (h w) c": ({}, lambda x: x.reshape(2, 24, 8)),
    "b h w (n d) -> b n (h w) d": (
        {"n": 2},
        lambda x: x.reshape(2, 24, 2, 4).swapaxes(1, 2),
    ),
    "b (h p) (w q) c -> b (h w) (p q c)": ({"p": 2, "q": 2}, _patches),
    "b h w c -> b h w c 1": ({}, lambda x: x[..., None]),
    "b h w c -> (b h) w c": ({}, lambda x: x.reshape(8, 6, 8)),
}


@pytest.mark.oracle("a loop")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_rearrange(pattern):
    sizes, expected = PATTERNS[pattern]
    layer = jl.Rearrange(pattern, **sizes)
    np.testing.assert_array_equal(of(layer), expected(X))
    np.testing.assert_array_equal(jax.jit(lambda x: of(layer, x))(X), expected(X))
    # It moves values alone, so its gradient moves them back.
    weights = np.cos(np.arange(X.size)).astype("float32").reshape(expected(X).shape)
    gradient = jax.grad(lambda x: jnp.vdot(of(layer, x), weights))(X)
    np.testing.assert_array_equal(expected(np.asarray(gradient)), weights)
    assert repr(layer).startswith(f"Rearrange({pattern!r}")


def test_flatten_some_axes():
    for start, end, shape in [
        (1, -1, (2, 192)),
        (2, -1, (2, 4, 48)),
        (1, 2, (2, 24, 8)),
        (-2, -1, (2, 4, 48)),
        (0, 1, (8, 6, 8)),
        (3, 3, (2, 4, 6, 8)),
        (0, -1, (384,)),
    ]:
        np.testing.assert_array_equal(of(jl.Flatten(start, end)), X.reshape(shape))


# Each of them is a line of JAX.
KERAS = {
    "permute": (keras.layers.Permute((2, 1, 3)), lambda x: jnp.transpose(x, (0, 2, 1, 3)), X),
    "permute by a pattern": (
        keras.layers.Permute((3, 1, 2)),
        jl.Rearrange("b h w c -> b c h w"),
        X,
    ),
    "repeat vector": (
        keras.layers.RepeatVector(3),
        lambda x: jnp.repeat(x[:, None], 3, 1),
        X[0, 0],
    ),
    "flatten": (keras.layers.Flatten(), jl.Flatten(), X),
    "identity": (keras.layers.Identity(), jl.serial(), X),
}


@pytest.mark.oracle("Keras")
@pytest.mark.parametrize("name", KERAS)
def test_against_keras(name):
    theirs, ours, x = KERAS[name]
    np.testing.assert_array_equal(of(jl.lift(ours), x), np.asarray(theirs(x)))


WRONG = {
    "pattern must be of the form 'x -> y', got 'b t c'": lambda: jl.Rearrange("b t c"),
    "pattern must be of the form 'x -> y', got 3": lambda: jl.Rearrange(3),
    "h must be a positive int, got 0": lambda: jl.Rearrange("b (h d) -> b h d", h=0),
    "einops: Identifiers only on one side of expression": lambda: of(
        jl.Rearrange("b h w c -> b h w d")
    ),
    "einops: Shape mismatch, can't divide axis of length 8 in chunks of 3": lambda: of(
        jl.Rearrange("b h w (n d) -> b h w n d", n=3)
    ),
    "einops: Wrong shape: expected 3 dims. Received 4-dim tensor.": lambda: of(
        jl.Rearrange("b t c -> b c t")
    ),
    "there are no axes from 4 to -1": lambda: of(jl.Flatten(4)),
    "there are no axes from 2 to 1": lambda: of(jl.Flatten(2, 1)),
    "start must be an int, got 1.5": lambda: jl.Flatten(1.5),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_does_not_fit_is_an_error(text):
    with pytest.raises(jl.LayerError) as caught:
        WRONG[text]()
    assert text in str(caught.value)


def test_steps_stay_where_they_are_or_a_mask_is_refused():
    x = jl.Sequence.from_lengths(X, [3, 2])
    for layer in (jl.Rearrange("b t h (n d) -> b t n (h d)", n=2), jl.Flatten(2)):
        y = of(layer, x)
        assert y.mask.tolist() == x.mask.tolist()
        assert not np.any(y.values[1, 2:])
    # A square would have the right shape.
    square = jl.Sequence(jnp.asarray(X[:, :, :4]), x.mask)
    for layer in (
        jl.Rearrange("b t h c -> b h t c"),
        jl.Rearrange("b t h c -> b (t h) c"),
        jl.Flatten(1, 2),
        jl.Flatten(),
    ):
        with pytest.raises(jl.LayerError):
            of(layer, square)


def test_without_einops_it_says_what_to_install():
    code = (
        "import sys; sys.modules['einops'] = None\n"
        "import jlayers as jl\n"
        "try: jl.Rearrange('b t c -> b c t')\n"
        "except jl.LayerError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Rearrange: needs the package einops" in done.stdout
    assert "hint:     pip install 'jlayers[einops]'" in done.stdout
