"""Images in other sizes: against jax.image, fractions, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jlayers as jl

X = jax.random.normal(jax.random.key(0), (2, 6, 5, 3))
SYMBOLIC = jax.ShapeDtypeStruct((2, *export.symbolic_shape("n"), 4), jnp.float32)


@pytest.mark.parametrize("sizes", [(12, 4), (3, 15), (7, 5)], ids=str)
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("method", ["lanczos3", "lanczos5", "linear"])
def test_resize_as_jax_does(method, antialias, sizes):
    layer = jl.Resize(sizes, method=method, antialias=antialias)

    def ours(x):
        return layer.apply({}, {}, x)[0]

    def theirs(x):
        return jax.image.resize(x, (2, *sizes, 3), method, antialias=antialias)

    for f in (
        lambda resize: resize(X),
        lambda resize: jax.grad(lambda x: (resize(x) ** 2).sum())(X),
    ):
        np.testing.assert_allclose(f(ours), f(theirs), rtol=1e-4, atol=1e-5)


def test_area_is_the_adaptive_pool():
    y, _ = jl.Resize((4, 7), method="area").apply({}, {}, X)
    np.testing.assert_array_equal(y, jl.AdaptiveAvgPool((4, 7)).apply({}, {}, X)[0])


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


WRONG = {
    "factor 0.1 leaves no pixel": lambda: jl.out_spec(jl.Resize(factor=0.1), jl.spec((2, 6, 1))),
    "factor 1.5 of an axis without a known size": lambda: jl.out_spec(
        jl.Resize(factor=1.5), SYMBOLIC
    ),
    "factor must be a number above 0, got 0": lambda: jl.Resize(factor=0),
    "takes an array of rank 4, got rank 3": lambda: jl.out_spec(
        jl.Resize(factor=(2, 2)), jl.spec((2, 6, 1))
    ),
    "unknown method 'bilinear'": lambda: jl.Resize(2, method="bilinear"),
    "takes sizes or factor": jl.Resize,
}


@pytest.mark.parametrize("text", WRONG)
def test_what_does_not_fit_is_an_error(text):
    with pytest.raises(jl.LayerError) as caught:
        WRONG[text]()
    assert text in str(caught.value)
