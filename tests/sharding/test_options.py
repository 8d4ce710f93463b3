"""Choices of XLA's options on several devices: their names, and what is refused."""

import jax
import jax.numpy as jnp
import pytest
from error_text import each, read
from jax.sharding import NamedSharding, PartitionSpec

from jlayers import sharding
from jlayers.sharding import options


@pytest.mark.parametrize("choice", options._CHOICES)
def test_compilers_here_take_them(choice):
    """Those for GPUs are known to the compiler for CPUs, and change nothing there."""
    mesh = jax.make_mesh((4,), ("data",))
    x = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("data")))
    for platform in ("cpu", "gpu"):
        chosen = sharding.compiler_options(choice, platform, combine=2**20)
        assert (platform == "gpu") == bool(chosen)
        assert jax.jit(jnp.sum, compiler_options=chosen)(x) == 28


def test_what_is_chosen():
    """The options that JAX's pages name; three of them jaxlib 0.12 has no longer."""
    gpu = sharding.compiler_options("overlap", "gpu")
    assert gpu["xla_gpu_enable_latency_hiding_scheduler"] is True
    assert set(gpu) <= set(options._CHOICES["overlap"]["gpu"])
    tpu = sharding.compiler_options("overlap", "tpu", combine=1)
    assert tpu == options._CHOICES["overlap"]["tpu"]
    assert sharding.compiler_options("overlap") == {}
    combined = sharding.compiler_options("slices", "gpu", combine=2**25)
    assert combined == {
        "xla_gpu_all_gather_combine_threshold_bytes": 2**25,
        "xla_gpu_reduce_scatter_combine_threshold_bytes": 2**25,
        "xla_gpu_all_reduce_combine_threshold_bytes": 2**25,
    }


def test_options_are_a_copy():
    sharding.compiler_options("overlap", "tpu").clear()
    assert sharding.compiler_options("overlap", "tpu")


def test_unknown_options_are_left_out(monkeypatch):
    monkeypatch.setitem(options._CHOICES["overlap"]["gpu"], "xla_gpu_no_such_option", True)
    assert "xla_gpu_no_such_option" not in sharding.compiler_options("overlap", "gpu")


@each(
    [
        (
            lambda: sharding.compiler_options("fast"),
            "compiler_options: the choice 'fast' is unknown",
            "expected: 'overlap', 'pipeline', 'slices'",
        ),
        (
            lambda: sharding.compiler_options("overlap", "gpu", combine=0),
            "compiler_options: combine must be a positive int, got 0",
        ),
    ]
)
def test_what_is_refused(case):
    read(case)


def test_unknown_platform():
    with pytest.raises(ValueError, match="platform 'cuda' is unknown"):
        sharding.compiler_options("overlap", "cuda")
