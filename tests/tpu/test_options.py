"""The compiler for TPUs takes the options that are chosen for it."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jlayers.sharding import options

from .programs import mesh


@pytest.mark.tpu
@pytest.mark.parametrize("choice", ["overlap", "slices"])
def test_options_are_known(choice):
    devices = mesh("2x2", data=4)
    x = jax.ShapeDtypeStruct(
        (8, 128), jnp.float32, sharding=NamedSharding(devices, PartitionSpec("data"))
    )
    # Each by itself: the compiler names the first that it does not know, and stops.
    for name, value in options._CHOICES[choice]["tpu"].items():
        jax.jit(lambda x: x.sum(0), compiler_options={name: value}).lower(x).compile()
