"""Products with matrices of few entries a row: gathered on CPU, whole elsewhere, and transposed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlayers.core import Interpolation, resampling, resize
from jlayers.core.bands import Band, along_axes
from jlayers.core.custom_gradient import linear_op

ROWS = [{0: 1.0}, {1: 0.5, 2: -2.0}, {}, {2: 1.0, 4: 3.0}]
DENSE = np.array([[1, 0, 0, 0, 0], [0, 0.5, -2, 0, 0], [0] * 5, [0, 0, 1, 0, 3.0]])


def test_a_band_and_its_transpose():
    band = Band.of(ROWS, 5)
    np.testing.assert_array_equal(band.dense(), DENSE)
    np.testing.assert_array_equal(band.transposed().dense(), DENSE.T)
    assert band.width == 3


@pytest.mark.parametrize("width", [3, 40], ids=["gathered", "whole"])
def test_products_and_their_derivatives(width):
    draw = np.random.default_rng(0)
    rows = [{i + k: draw.normal() for k in range(width)} for i in range(4)]
    bands = {1: Band.of(rows, width + 4), 2: Band.of(ROWS, 5)}
    x, t = draw.normal(size=(2, 2, width + 4, 5, 3)).astype("float32")
    ct = draw.normal(size=(2, 4, 4, 3)).astype("float32")

    def along(x):
        return along_axes(x, bands)

    def expected(x):
        return np.einsum("bhwc,ph,qw->bpqc", x, bands[1].dense(), DENSE)

    y, tangent = jax.jit(lambda x, t: jax.jvp(along, (x,), (t,)))(x, t)
    np.testing.assert_allclose(y, expected(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tangent, expected(t), rtol=1e-5, atol=1e-5)
    (back,) = jax.jit(lambda x, ct: jax.vjp(along, x)[1](ct))(x, ct)
    wanted = np.einsum("bpqc,ph,qw->bhwc", ct, bands[1].dense(), DENSE)
    np.testing.assert_allclose(back, wanted, rtol=1e-5, atol=1e-5)


def test_each_program_is_the_transpose_of_the_other():
    op = linear_op(lambda x: jnp.stack([x, 2 * x]), lambda ct: ct[0] + 2 * ct[1])
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(jax.hessian(lambda x: (op(x) ** 2).sum())(x), 10 * np.eye(3))
    transposed = jax.linear_transpose(op, x)(op(x))[0]
    np.testing.assert_array_equal(transposed, 5 * x)
    again = jax.linear_transpose(lambda ct: jax.linear_transpose(op, x)(ct)[0], op(x))(x)[0]
    np.testing.assert_array_equal(again, op(x))


@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("method", ["nearest", "linear", "cubic"])
def test_resize_is_the_same_on_other_platforms(monkeypatch, method, coordinates):
    x = jax.random.normal(jax.random.key(0), (2, 6, 5, 3))
    how = Interpolation(method, coordinates)

    def results():
        def resized(x):
            return resize(x, (12, 7), how)

        y, pull = jax.vjp(resized, x)
        return y, pull(jnp.sin(y))[0]

    here = results()
    monkeypatch.setattr(resampling, "along_axes", lambda x, bands, default: default(x))
    jax.clear_caches()  # a resize is traced once
    for got, wanted in zip(here, results(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    jax.clear_caches()
