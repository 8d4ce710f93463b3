"""Numerics that the oracles cannot show: gradients where a plain expression would lose them."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlayers import core


@pytest.mark.parametrize("level", [None, 0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_gradient_of_a_global_maximum_survives_rounding(level, dtype):
    """jnp.max compares a value with itself, computed twice; its gradient is NaN here at level 0."""

    def loss(x):
        centred = x - jnp.broadcast_to(jnp.mean(x, -1, keepdims=True), x.shape)
        variance = jnp.mean(centred * centred, -1, keepdims=True)
        normal = centred * jnp.broadcast_to(jax.lax.rsqrt(variance + 1e-5), x.shape)
        return jnp.sum(core.global_max_pool(normal) ** 2)

    x = jax.random.normal(jax.random.key(0), (2, 4, 3), dtype)
    options = {} if level is None else {"xla_backend_optimization_level": level}
    compiled = jax.jit(jax.grad(loss), compiler_options=options)
    tolerance = 1e-5 if dtype == jnp.float32 else 0.1
    np.testing.assert_allclose(
        compiled(x).astype(np.float32), jax.grad(loss)(x).astype(np.float32), atol=tolerance
    )


def test_the_first_of_equal_values_has_the_gradient():
    x = jnp.array([[[1.0], [3.0], [3.0]]])
    gradient = jax.grad(lambda x: jnp.sum(core.global_max_pool(x)))(x)
    np.testing.assert_array_equal(gradient[0, :, 0], [0, 1, 0])


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32])
def test_a_global_maximum_of_any_rank_and_dtype(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 5, 2)) * 9, dtype)
    np.testing.assert_array_equal(core.global_max_pool(x), np.max(x, (1, 2, 3)))


def test_the_page_documents_what_the_core_exports():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "core.md").read_text()
    documented = re.findall(r"^::: jlayers\.core\.(\w+)$", page, re.M)
    assert sorted(documented) == core.__all__
    assert all(getattr(core, name).__doc__ for name in core.__all__)
