"""Tests run strict: no silent dtype promotion, no silent broadcast, two devices to shard over."""

import os

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 2)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def quick_to_compile():
    """For tests that compile much and run little: most of XLA's optimisations are left out."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    everywhere = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "0") != "0"
    jax.config.update("jax_disable_most_optimizations", everywhere)
