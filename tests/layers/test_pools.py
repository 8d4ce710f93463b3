"""Pools beside the maximum and the mean: whole numbers, padding of sequences, zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "float32"])
def test_min_pool_has_the_whole_range_of_a_dtype(dtype):
    least = np.iinfo(dtype).min if "int" in dtype else -np.inf
    most = np.iinfo(dtype).max if "int" in dtype else np.inf
    x = np.array([least, 3, most, most, 1, 2], dtype).reshape(1, 6, 1)
    y, _ = jl.MinPool(2).apply({}, {}, x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.ravel(), np.array([least, most, 1], dtype))


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (jl.MinPool, [[1, 2], [3, 4]]),
        (jl.SumPool, [[4, 7], [8, 4]]),
        (lambda *args, **options: jl.LpPool(2, *args, **options), None),
    ],
    ids=["min", "sum", "lp"],
)
def test_padded_steps_are_left_out(pool, expected):
    values = jnp.array([[3.0, 1, 2, 5], [3, 5, 4, -9]])[..., None]
    x = jl.Sequence(values, jnp.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool))
    y, _ = pool(2, padding="SAME").apply({}, {}, x)
    if expected is None:
        expected = np.sqrt([[10, 29], [34, 16]])
    assert y.mask.all()
    np.testing.assert_allclose(y.values[..., 0], expected, rtol=1e-6)


@pytest.mark.parametrize("p", [0.5, 1, 2, 3])
def test_the_gradient_of_a_window_of_zeros_is_zero(p):
    x = jnp.array([0.0, 0.0, 0.0, 2.0]).reshape(1, 4, 1)
    gradient = jax.grad(lambda x: jl.LpPool(p, 2).apply({}, {}, x)[0].sum())(x)
    assert jnp.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient.ravel()[:2], 0)
